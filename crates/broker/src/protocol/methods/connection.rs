//! Class connection (10).

class! { "connection" = 10 {
    /// The server begins: versions, what it can do, how one may log in.
    Start<'a> ("start", 10) { version_major: u8, version_minor: u8, server_properties: Table<'a>, mechanisms: &'a [u8], locales: &'a [u8] };
    /// The client logs in.
    StartOk<'a> ("start-ok", 11) { client_properties: Table<'a>, mechanism: &'a str, response: &'a [u8], locale: &'a str };
    /// The server asks for more to log in with.
    Secure<'a> ("secure", 20) { challenge: &'a [u8] };
    /// The client gives it.
    SecureOk<'a> ("secure-ok", 21) { response: &'a [u8] };
    /// The server proposes limits. Zero is none.
    Tune ("tune", 30) { channel_max: u16, frame_max: u32, heartbeat: u16 };
    /// The client chooses limits within them.
    TuneOk ("tune-ok", 31) { channel_max: u16, frame_max: u32, heartbeat: u16 };
    /// The client chooses a virtual host.
    Open<'a> ("open", 40) { virtual_host: &'a str } skip_after &str, bool;
    /// The connection is open.
    OpenOk ("open-ok", 41) {} skip_after &str;
    /// Either side ends the connection.
    Close<'a> ("close", 50) { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 };
    /// The other side agrees.
    CloseOk ("close-ok", 51) {};
    /// The server does not read from publishers for now.
    Blocked<'a> ("blocked", 60) { reason: &'a str };
    /// It reads from them again.
    Unblocked ("unblocked", 61) {};
    /// The client has a new password or token.
    UpdateSecret<'a> ("update-secret", 70) { new_secret: &'a [u8], reason: &'a str };
    /// The server has taken it.
    UpdateSecretOk ("update-secret-ok", 71) {};
} }
