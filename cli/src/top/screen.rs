//! The terminal: taken over for the view, and given back whatever happens.
//!
//! It is given back when the view ends, by an error too, by [`restore`] from a panic or from the thread that receives signals,
//! and for as long as Ctrl-Z has stopped the command.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::ResetColor;
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute};
use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect, Size};
use ratatui::{Terminal, TerminalOptions, Viewport};

use crate::failure::Failure;
use crate::output;

/// The part of a terminal that is used, at most.
///
/// Guards: a terminal that claims to be larger than any screen. Memory is taken for each of its cells.
const LARGEST: Size = Size::new(1000, 500);

/// Whether the terminal is ours now.
static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Whether something has panicked since the view began.
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// A handle of standard output of our own.
///
/// Guards: a thread that restores while another is stuck in a write and has the lock of `io::stdout`.
fn out() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

fn failed(error: &io::Error) -> Failure {
    Failure::Other(format!("the terminal cannot be used: {error}"))
}

/// That there is a terminal to show a view in.
///
/// # Errors
/// `Usage`, which names `--once`.
pub(super) fn check() -> Result<(), Failure> {
    let usage = |why: &str| Err(Failure::Usage(format!("{why}; --once prints one frame and ends, without a terminal")));
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return usage("standard input and standard output have to be a terminal");
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return usage("the terminal (TERM=dumb) cannot move its cursor");
    }
    Ok(())
}

/// The terminal while a view is shown. Dropped, it is as it was before.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<File>>,
    /// The part of it that was drawn last.
    area: Rect,
}

impl Screen {
    pub(super) fn enter() -> Result<Self, Failure> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // The message has to be read on the screen that stays.
                restore();
                // Ordering: Relaxed, for it orders nothing.
                HAS_PANICKED.store(true, Ordering::Relaxed);
                before(panic);
            }));
        });
        output::hold_errors();
        let terminal = take_over().and_then(|()| {
            let options = TerminalOptions { viewport: Viewport::Fixed(Rect::ZERO) };
            Terminal::with_options(CrosstermBackend::new(out()?), options)
        });
        match terminal {
            Ok(terminal) => Ok(Screen { terminal, area: Rect::ZERO }),
            Err(error) => {
                restore();
                Err(failed(&error))
            }
        }
    }

    /// Draws a frame; what has not changed is not written.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<(), Failure> {
        // Guards: a panic elsewhere that has given the terminal back.
        if has_panicked() {
            return Err(Failure::Other("a part of the command has panicked".to_owned()));
        }
        let drawn = self.area_now().and_then(|area| {
            if area != self.area {
                self.draw_all(area)?;
            }
            self.terminal.draw(frame).map(drop)
        });
        drawn.map_err(|error| output::failed(&error))
    }

    fn area_now(&self) -> io::Result<Rect> {
        let Size { width, height } = self.terminal.size()?;
        let size = Size::new(width.min(LARGEST.width), height.min(LARGEST.height));
        Ok(Rect::from((Position::ORIGIN, size)))
    }

    /// Has the next frame draw this part anew.
    fn draw_all(&mut self, area: Rect) -> io::Result<()> {
        self.area = area;
        self.terminal.resize(area)
    }

    /// Stops the command, as Ctrl-Z does elsewhere, until it goes on in the foreground.
    pub(super) fn suspend(&mut self) -> Result<(), Failure> {
        restore();
        // To this thread, which has stopped when this returns.
        raise(Signal::SIGTSTP).map_err(|error| failed(&error.into()))?;
        self.enter_again()
    }

    /// Takes the terminal again, for somebody else may have had it.
    pub(super) fn enter_again(&mut self) -> Result<(), Failure> {
        restore();
        output::hold_errors();
        // Not by `clear`, which asks the terminal where its cursor is, and reads the answer among the keys.
        let drawn = take_over().and_then(|()| self.area_now()).and_then(|area| self.draw_all(area));
        drawn.map_err(|error| failed(&error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether something has panicked since the view began.
pub(super) fn has_panicked() -> bool {
    HAS_PANICKED.load(Ordering::Relaxed)
}

fn take_over() -> io::Result<()> {
    // Before it is: half of it is undone too.
    IS_OURS.store(true, Ordering::SeqCst);
    terminal::enable_raw_mode()?;
    execute!(out()?, EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)
}

/// Gives the terminal back, if it is ours. From any thread, as often as one likes.
pub(crate) fn restore() {
    // Ordering: SeqCst, so that one thread alone gives it back.
    if IS_OURS.swap(false, Ordering::SeqCst) {
        // The modes first: they are set even where the terminal takes no output.
        let _ = terminal::disable_raw_mode();
        if let Ok(mut out) = out() {
            let _ = execute!(out, ResetColor, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
            let _ = out.flush();
        }
        output::release_errors();
    }
}
