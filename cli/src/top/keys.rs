//! The keyboard.

use std::io;

use crossterm::event::{self, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;

use super::model::Key;

/// What has happened at the terminal.
pub(super) enum Pressed {
    Key(Key),
    /// It has another size.
    Resized,
}

pub(super) struct Keys(EventStream);

impl Keys {
    pub(super) fn read() -> Self {
        Keys(EventStream::new())
    }

    /// The next that matters.
    ///
    /// # Cancel safety
    /// No key is lost when it is dropped.
    pub(super) async fn next(&mut self) -> Option<io::Result<Pressed>> {
        loop {
            match self.0.next().await? {
                Err(error) => return Some(Err(error)),
                Ok(event) => {
                    if let Some(pressed) = read(event) {
                        return Some(Ok(pressed));
                    }
                }
            }
        }
    }
}

fn read(event: event::Event) -> Option<Pressed> {
    let key = match event {
        event::Event::Resize(..) => return Some(Pressed::Resized),
        event::Event::Paste(text) => Key::Paste(text),
        event::Event::Key(key) if key.kind != KeyEventKind::Release => {
            let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char(c) if is_control => Key::Control(c.to_ascii_lowercase()),
                // Alt and a letter is no command.
                KeyCode::Char(_) if key.modifiers.contains(KeyModifiers::ALT) => return None,
                KeyCode::Char(c) => Key::Char(c),
                KeyCode::Up => Key::Up,
                KeyCode::Down => Key::Down,
                KeyCode::PageUp => Key::PageUp,
                KeyCode::PageDown => Key::PageDown,
                KeyCode::Home => Key::Home,
                KeyCode::End => Key::End,
                KeyCode::Enter => Key::Enter,
                KeyCode::Esc => Key::Escape,
                KeyCode::Backspace => Key::Backspace,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Pressed::Key(key))
}
