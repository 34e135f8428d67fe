//! A command in a terminal: a pseudo-terminal, and what it shows.

#![allow(dead_code)] // each test target uses its own part of it

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use crate::shell::{self, eventually, same_surroundings, signal, text};

/// What a terminal got.
pub struct Shown {
    pub terminal: vt100::Parser,
    pub bytes: Vec<u8>,
    /// The mark has come: all that was written before it is here.
    is_all: bool,
}

/// What is written behind the last words of a command. A terminal shows nothing of it.
const MARK: u8 = 0;

/// A command in a terminal of its own.
pub struct Pty {
    pub child: Child,
    pub input: File,
    /// The command's end, which stays open when the command has ended.
    pub terminal: OwnedFd,
    pub shown: Arc<Mutex<Shown>>,
    pub modes: String,
}

pub const ROWS: u16 = 24;
pub const COLUMNS: u16 = 100;

impl Pty {
    pub fn start(command: &Command) -> Result<Self, Box<dyn std::error::Error>> {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None)?;
        let modes = modes(&pty.slave);
        let mut started = Command::new("setsid");
        started.arg("--ctty").arg(command.get_program()).args(command.get_args());
        same_surroundings(command, &mut started);
        if let Some(folder) = command.get_current_dir() {
            started.current_dir(folder);
        }
        let end = || pty.slave.try_clone().map(Stdio::from);
        let child = started.stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
        let terminal = vt100::Parser::new(ROWS, COLUMNS, 0);
        let shown = Arc::new(Mutex::new(Shown { terminal, bytes: Vec::new(), is_all: false }));
        let (mut output, into) = (File::from(pty.master.try_clone()?), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let mut shown = into.lock().unwrap_or_else(PoisonError::into_inner);
                let piece = &piece[..length];
                shown.is_all = piece.ends_with(&[MARK]);
                let piece = piece.strip_suffix(&[MARK]).unwrap_or(piece);
                shown.terminal.process(piece);
                shown.bytes.extend_from_slice(piece);
            }
        });
        Ok(Pty { child, input: File::from(pty.master), terminal: pty.slave, shown, modes })
    }

    pub fn with<T>(&self, look: impl FnOnce(&Shown) -> T) -> T {
        look(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn screen(&self) -> String {
        self.with(|shown| shown.terminal.screen().contents())
    }

    pub fn press(&mut self, keys: &str) -> std::io::Result<()> {
        self.input.write_all(keys.as_bytes())
    }

    /// Waits until the screen has all of these.
    #[track_caller]
    pub fn until(&self, texts: &[&str]) -> String {
        let until = Instant::now() + shell::LONG;
        loop {
            let screen = self.screen();
            if texts.iter().all(|text| screen.contains(text)) {
                return screen;
            }
            assert!(Instant::now() < until, "{texts:?} do not come:\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until one line of the screen has all of these.
    #[track_caller]
    pub fn until_line(&self, texts: &[&str]) {
        let has = |screen: &str| screen.lines().any(|line| texts.iter().all(|text| line.contains(text)));
        eventually(&format!("no line has {texts:?}:\n{}", self.screen()), || has(&self.screen()));
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// How often it was drawn: each frame ends with the cursor hidden.
    pub fn frames(&self) -> usize {
        self.with(|shown| text(&shown.bytes).matches("\u{1b}[?25l").count())
    }

    /// Waits for its end; the terminal has to be as it was before.
    #[track_caller]
    pub fn ends(&mut self, code: i32) -> String {
        let until = Instant::now() + shell::LONG;
        let status = loop {
            match self.child.try_wait().expect("it can be waited for") {
                Some(status) => break status,
                None if Instant::now() > until => panic!("it does not end:\n{}", self.screen()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // Guards: what it wrote last, and is on its way.
        File::from(self.terminal.try_clone().expect("another handle")).write_all(&[MARK]).expect("room for a mark");
        eventually("not all of it comes", || self.with(|shown| shown.is_all));
        eventually("the screen is not given back", || !self.with(|shown| shown.terminal.screen().alternate_screen()));
        let screen = self.screen();
        assert_eq!(status.code(), Some(code), "{status}\n{screen}");
        self.is_as_before();
        screen
    }

    #[track_caller]
    pub fn is_as_before(&self) {
        assert_eq!(modes(&self.terminal), self.modes);
        eventually("the cursor is hidden, or pasting is marked", || {
            self.with(|shown| {
                let screen = shown.terminal.screen();
                !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste()
            })
        });
    }

    /// That the terminal is not as before while the view is shown: what is found afterwards is found because it was undone.
    #[track_caller]
    pub fn is_taken(&self) {
        self.until(&["homing top", "connected"]);
        assert_ne!(modes(&self.terminal), self.modes);
        let taken = self.with(|shown| {
            let screen = shown.terminal.screen();
            screen.alternate_screen() && screen.hide_cursor() && screen.bracketed_paste()
        });
        assert!(taken);
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal's modes, as a person reads them.
pub fn modes(terminal: &impl AsFd) -> String {
    let terminal = terminal.as_fd().try_clone_to_owned().expect("a handle");
    let output = Command::new("stty").arg("-a").stdin(terminal).output().expect("stty runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}
