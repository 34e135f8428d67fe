//! Class tx (90).

class! { "tx" = 90 {
    /// Publishes and acknowledgements of this channel wait for a commit from now on.
    Select ("select", 10) {};
    /// They do.
    SelectOk ("select-ok", 11) {};
    /// Does what waits.
    Commit ("commit", 20) {};
    /// It is done.
    CommitOk ("commit-ok", 21) {};
    /// Drops what waits.
    Rollback ("rollback", 30) {};
    /// It is dropped.
    RollbackOk ("rollback-ok", 31) {};
} }
