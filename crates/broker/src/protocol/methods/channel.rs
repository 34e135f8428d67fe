//! Class channel (20).

class! { "channel" = 20 {
    /// Opens a channel.
    Open ("open", 10) {} skip_after &str;
    /// It is open.
    OpenOk ("open-ok", 11) {} skip_after &[u8];
    /// Stops or continues the flow of content to the sender.
    Flow ("flow", 20) { active: bool };
    /// It is so.
    FlowOk ("flow-ok", 21) { active: bool };
    /// Either side ends the channel.
    Close<'a> ("close", 40) { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 };
    /// The other side agrees.
    CloseOk ("close-ok", 41) {};
} }
