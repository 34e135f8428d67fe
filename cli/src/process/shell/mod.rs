//! The class `shell`: any program as a process.
//!
//! A job has two steps. The first starts a process that waits at a gate, and ends: with its checkpoint the store knows which
//! process that is. The second opens the gate and stays with the program. A worker that finds a job whose program was started
//! elsewhere ends what is left of it on this machine, before it starts the program again.

pub(crate) mod job;
mod lines;
mod program;

use homing::process::store::{LogLine, LogSource};
use homing::process::{Finish, Inputs, Next, Process, StepContext};
use homing::{HandlerError, HandlerResult, Value};
use serde::{Deserialize, Serialize};

use self::job::Job;
use self::program::Program;
use crate::args::OnLoss;
use crate::exec::programs::Started;
use crate::groups;

/// The name of the class.
pub(crate) const CLASS: &str = "shell";

/// A job, as it is stored between its steps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shell {
    job: Job,
    /// How many times the program was started.
    #[serde(default)]
    attempts: u32,
    /// The process of the last attempt.
    #[serde(default)]
    started: Option<Started>,
    /// The same in this worker's hands.
    #[serde(skip)]
    program: Option<Program>,
}

impl Shell {
    /// Ends what is left of an attempt that was another worker's, and decides what becomes of the job.
    async fn after_loss(&self, last: &Started, context: &StepContext) -> HandlerResult<()> {
        let attempt = self.attempts;
        let was_running = last.end().await.map_err(|error| {
            let text =
                format!("attempt {attempt} still runs as process group {} and cannot be ended: {error}", last.pid());
            HandlerError::exception(text).with_type("StillRunning")
        })?;
        let what = if was_running { "; what was left of it was ended" } else { "" };
        let text = format!("the worker of attempt {attempt} was gone before the program had ended{what}");
        if self.job.on_loss == OnLoss::MarkLost {
            return Err(HandlerError::exception(format!("{text}; it is not run again")).with_type("Lost"));
        }
        let text = format!("{text}; attempt {} runs it again from its beginning", attempt + 1);
        context.log_lines(vec![LogLine::new(LogSource::Process, text, std::time::SystemTime::now())]).await
    }
}

impl Process for Shell {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        Ok(Shell { job: Job::read(&inputs)?, attempts: 0, started: None, program: None })
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        if let Some(program) = self.program.take() {
            let ended = program.run(self.job.grace(), context).await?;
            let status = program::exit_status(ended);
            let outputs = [("exit_status", Value::from(status)), ("attempts", Value::from(self.attempts))];
            return Ok(Finish::new(Value::from_iter(outputs)).with_exit_status(status).into());
        }
        if let Some(last) = &self.started {
            self.after_loss(last, context).await?;
        }
        self.attempts += 1;
        context.set_status(self.job.shown());
        let program = match Program::start(&self.job, context.pid(), self.attempts) {
            Ok(program) => program,
            Err(error) => {
                let error = groups::unless_this_process_ends(error).await;
                let text = format!("{:?} cannot be started: {error}", self.job.shown());
                return Err(HandlerError::exception(text).with_type("CannotStart"));
            }
        };
        self.started = Some(program.started().clone());
        self.program = Some(program);
        Ok(Next::Step)
    }

    fn describe(&self) -> String {
        self.job.shown()
    }
}
