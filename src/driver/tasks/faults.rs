//! Faults that the explorer puts into the book, to see that it would find them. In a build without tests none is ever on,
//! and the compiler removes every question for one.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "some are asked for in tests only"))]
pub(super) enum Fault {
    /// The lease is taken out of the task while the next one is made.
    LeaseTakenOut,
    /// A delivery through a channel that is closed already is taken for good.
    DeadChannelTrusted,
    /// The deliveries of a lost connection stay with their tasks.
    OldGenerationKept,
    /// A guard that a panic drops sends its task back at once.
    PanicRequeuesAtOnce,
    /// A task that its user lets go always goes back at once.
    LetGoAlwaysAtOnce,
    /// A delivery for which there is no subscriber goes back at once, each time.
    NobodyRequeuesAtOnce,
    /// A message that comes again is known by its id alone.
    IdAlone,
    /// A message that comes again is explained without a reason.
    NoReasonNeeded,
    /// A copy that comes again is not distinguished from other copies of the same message.
    MarksIgnored,
    /// What ended is forgotten.
    EndedForgotten,
    /// An unknown answer to a move is taken for success.
    DoubtfulMoveTrusted,
    /// An unknown answer to a lease is taken for success.
    DoubtfulLeaseTrusted,
    /// A doubtful lease is forgotten.
    DoubtfulLeaseForgotten,
    /// The original is acknowledged before its lease is confirmed.
    AckBeforeLease,
    /// A lease whose time is over is deleted although its task is unfinished.
    LapsedLeaseDeleted,
    /// A lease whose time is over is still taken for ownership.
    LapseNotSeen,
    /// A lease that is confirmed after its task has ended stays.
    LateLeaseKept,
    /// A lease queue that could not be deleted is forgotten.
    FailedDeleteForgotten,
    /// A move that failed leaves the task to nobody.
    FailedMoveForgotten,
    /// A task that nobody has begun stays offered when its deliveries are gone.
    NotWithdrawn,
    /// A subscriber that leaves keeps what it was offered.
    OfferNotMovedOn,
    /// A task that is away is offered to the next subscriber.
    AwayOffered,
    /// A settlement by somebody from whom the task was withdrawn counts.
    StaleSettlementCounts,
    /// A close leaves tasks on lease as they are.
    CloseKeepsLeases,
    /// The state of a queue stays when nothing of the queue is left.
    QueueKept,
    /// The queue's consumer is not fitted.
    NeverFitted,
}
