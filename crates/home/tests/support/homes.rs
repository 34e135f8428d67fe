//! Homes of every kind, running, with the same words for all of them.

use std::fmt;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use homing_home::{Completer, EventLoop, ForeignLoop, Home, LocalHome, thread_future};

/// The kinds of homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MultiThread,
    CurrentThread,
    EventLoop,
    ForeignLoop,
    Thread,
}

impl Kind {
    pub const ALL: [Kind; 5] =
        [Kind::MultiThread, Kind::CurrentThread, Kind::EventLoop, Kind::ForeignLoop, Kind::Thread];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::MultiThread => "multi_thread",
            Kind::CurrentThread => "current_thread",
            Kind::EventLoop => "event_loop",
            Kind::ForeignLoop => "foreign_loop",
            Kind::Thread => "thread",
        })
    }
}

/// One home that runs until it is stopped.
pub struct Place {
    home: Home,
    end: End,
}

enum End {
    Runtime(tokio::runtime::Runtime),
    Loop(EventLoop),
    Foreign(mpsc::Sender<Word>, JoinHandle<()>),
    Thread(Completer<()>, JoinHandle<()>),
    CurrentThread(tokio::sync::oneshot::Sender<()>, JoinHandle<()>),
}

#[derive(Clone, Copy)]
enum Word {
    Wake,
    Stop,
}

impl Place {
    pub fn start(kind: Kind) -> Self {
        let (tell, told) = mpsc::channel();
        let end = match kind {
            Kind::MultiThread => {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                tell.send(Home::of_runtime(runtime.handle())).unwrap();
                End::Runtime(runtime)
            }
            Kind::CurrentThread => {
                let (stop, stopped) = tokio::sync::oneshot::channel();
                let thread = thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    tell.send(Home::of_runtime(runtime.handle())).unwrap();
                    let _stopped = runtime.block_on(stopped);
                });
                End::CurrentThread(stop, thread)
            }
            Kind::EventLoop => {
                let event_loop = EventLoop::start("place").unwrap();
                tell.send(event_loop.handle().home()).unwrap();
                End::Loop(event_loop)
            }
            Kind::ForeignLoop => {
                let (words, heard) = mpsc::channel();
                let bell = words.clone();
                let thread = thread::spawn(move || {
                    let home = ForeignLoop::sending(bell, Word::Wake);
                    tell.send(home.home()).unwrap();
                    while let Ok(Word::Wake) = heard.recv() {
                        home.run_pending(8);
                    }
                });
                End::Foreign(words, thread)
            }
            Kind::Thread => {
                let (given, taken) = mpsc::channel();
                let thread = thread::spawn(move || {
                    let (stop, stopped) = thread_future::<()>().unwrap();
                    given.send(stop).unwrap();
                    tell.send(Home::current()).unwrap();
                    // A plain thread serves while it waits.
                    let _stopped = LocalHome::of_this_thread().block_on(stopped);
                });
                End::Thread(taken.recv().unwrap(), thread)
            }
        };
        Place { home: told.recv().unwrap(), end }
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    pub fn stop(self) {
        match self.end {
            End::Runtime(runtime) => drop(runtime),
            End::Loop(event_loop) => event_loop.stop(),
            End::Foreign(words, thread) => {
                words.send(Word::Stop).unwrap();
                thread.join().unwrap();
            }
            End::Thread(stop, thread) => {
                stop.complete(()).unwrap();
                thread.join().unwrap();
            }
            End::CurrentThread(stop, thread) => {
                stop.send(()).unwrap();
                thread.join().unwrap();
            }
        }
    }
}
