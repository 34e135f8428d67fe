//! Longer passages of the help.
//!
//! A paragraph is one line here, for clap wraps it to the width of the terminal. What is a table has lines that fit into 80
//! columns.

/// Behind `homing --help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
    0  done; also when the reader of standard output has gone (homing ... | head -1),
       and when one signal has ended a worker and its tasks had ended
    1  failed
    2  wrong usage
    3  unroutable: no subscriber has this identifier; nobody runs processes
    4  timed out; the error reports whether the message was sent
    5  remote exception: the other end failed
    6  no connection
    7  access refused: the credentials, the virtual host, or a permission
  130  interrupted (Ctrl-C); 143 by SIGTERM
A command about several processes ends with the highest of their codes; `homing run` with its program's.";

/// Behind the help of the commands about processes.
pub(super) const PIDS: &str = "\
Processes:
  A PID is a number (AiiDA's pk), a UUID (what plumpy draws) or a name. A name that looks like a number or a UUID goes into \
  double quotes: '\"1234\"'. Several are asked side by side, and each gets a line.
  AiiDA's processes are reached with --aiida (its default profile) or --profile NAME.";

/// Behind the help of `process launch`.
pub(super) const CONSTRUCTORS: &str = "\
Arguments:
  homing process launch jobs:Relax inputs='{structure: Si, steps: 20}' pid=4711
  makes jobs.Relax(inputs={'structure': 'Si', 'steps': 20}, pid=4711). A positional argument with a = in it, or one that \
  begins with a dash, is written as JSON or YAML that hides it: '\"a=b\"'.";

/// Behind the help of every command that sends a body.
pub(super) const BODIES: &str = "\
Bodies:
  A body is YAML 1.1 or JSON, as kiwipy's Python peers read it. Text that is JSON is read as JSON. Without a body, null is \
  sent; `-` reads it from standard input. Put `--` before a body that begins with a dash: homing task send -- '- a list'.
  YAML 1.1 has surprises: 12:30 is the number 750 (base 60), 010 is 8 (octal), 1_000 is 1000, and yes, no, on and off are \
  booleans. Write '\"12:30\"' (quotes within quotes) for the string.";

/// Behind the help of `rpc serve` and `task work`.
pub(super) const COMMANDS: &str = "\
The command of --exec:
  Its standard input is the body as JSON, one line. Its standard output, read as YAML, is the answer; empty is null. What it \
  writes to standard error is passed on as it is when it has done its work, also among lines of JSON. Its environment has \
  HOMING_KIND (task or call), HOMING_MESSAGE_ID, HOMING_CORRELATION_ID, HOMING_QUEUE, HOMING_IDENTIFIER, HOMING_ATTEMPT, and \
  HOMING_REDELIVERED and HOMING_NO_REPLY (true or false), each where it is known. It has ended when its own process has; \
  processes that it left in the background do not delay the answer.
Its exit code:
    0  done
   75  not now (EX_TEMPFAIL): the task is tried again, without a limit;
       a caller gets an exception
  126  not runnable, and 127 not found: the worker stops with exit code 1,
       and the task is back in its queue
  Any other has failed: see --retries and --on-failure; a caller gets an exception with its standard error.";

/// Behind the help of `run`.
pub(super) const RUN: &str = "\
Ends:
  With the program's exit code; 128 and the number of the signal that has ended it; 143 when the process was killed. Ctrl-C
  at a terminal asks whether to kill it or to leave it running; without a terminal it goes on.
The program:
  Its standard input is empty. Its environment is the worker's with HOMING_PROCESS (the pid) and HOMING_ATTEMPT, and what --env
  sets. It runs in a process group of its own. What it has left in that group when it ends is killed.";
