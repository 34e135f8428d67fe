//! A frame: the model, drawn into a buffer of any size. It changes nothing and asks nobody.

use std::time::{Duration, SystemTime};

use homing::process::ProcessState;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use unicode_width::UnicodeWidthStr;

use super::model::{Connection, Detail, Found, Mode, Model, Process, Tone};
use crate::process::shown_time;

/// How something is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    Colours,
    /// With bold, dim and reversed alone.
    Plain,
}

impl Theme {
    fn tone(self, tone: Tone) -> Style {
        let style = match tone {
            Tone::Plain => Style::new(),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Good => self.coloured(Color::Green),
            Tone::Warning => self.coloured(Color::Yellow),
            Tone::Bad => self.coloured(Color::Red),
        };
        if tone == Tone::Bad { style.add_modifier(Modifier::BOLD) } else { style }
    }

    fn coloured(self, colour: Color) -> Style {
        match self {
            Theme::Colours => Style::new().fg(colour),
            Theme::Plain => Style::new(),
        }
    }

    fn state(self, process: &Process) -> Style {
        match process.state {
            _ if process.is_paused => self.tone(Tone::Warning),
            Some(ProcessState::Running) => self.coloured(Color::Cyan),
            Some(ProcessState::Finished) if process.exit_status.is_none_or(|status| status == 0) => {
                self.tone(Tone::Good)
            }
            Some(ProcessState::Finished) => self.tone(Tone::Warning),
            Some(ProcessState::Excepted | ProcessState::Killed) => self.tone(Tone::Bad),
            _ => Style::new(),
        }
    }
}

const TITLE: Style = Style::new().add_modifier(Modifier::REVERSED);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Where the parts of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    header: Rect,
    queues: Rect,
    pub main: Rect,
    events: Rect,
    footer: Rect,
}

/// The parts of an area. What is least important is left out first where there is no room.
pub(super) fn parts(area: Rect, model: &Model) -> Parts {
    let mut left = area.height;
    let mut take = |wanted: u16, keep: u16| {
        let height = wanted.min(left.saturating_sub(keep));
        left -= height;
        height
    };
    let is_detail = model.detail.is_some();
    let (mut header, mut footer) = (take(1, 1), take(1, 2));
    header += take(1, 5);
    footer += take(1, 5);
    let queues = if is_detail { 0 } else { u16::try_from(model.queues.len() + 1).unwrap_or(u16::MAX) };
    let queues = if model.queues.is_empty() || is_detail { 0 } else { take(queues, 8) };
    let events = if is_detail { 0 } else { take((area.height / 4).min(10), 6) };
    let main = take(u16::MAX, 0);
    let mut y = area.y;
    let mut part = |height: u16| {
        let part = Rect { x: area.x, y, width: area.width, height };
        y += height;
        part
    };
    Parts { header: part(header), queues: part(queues), main: part(main), events: part(events), footer: part(footer) }
}

/// How many processes fit.
pub(super) fn rows(parts: &Parts) -> usize {
    usize::from(parts.main.height.saturating_sub(1))
}

/// A pen within a rectangle: nothing is drawn outside of it.
struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

impl Pen<'_> {
    /// Puts a text into so many columns at most; what does not fit ends with `…`.
    fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        if y >= self.area.height || x >= self.area.width {
            return;
        }
        let width = usize::from(width.min(self.area.width - x));
        let (x, y) = (self.area.x + x, self.area.y + y);
        if text.width() <= width {
            self.buffer.set_stringn(x, y, text, width, style);
        } else if width > 0 {
            let (end, _) = self.buffer.set_stringn(x, y, text, width - 1, style);
            self.buffer.set_stringn(end, y, "…", 1, style);
        }
    }

    fn line(&mut self, y: u16, text: &str, style: Style) {
        self.put(0, y, self.area.width, text, style);
    }

    fn fill(&mut self, y: u16, style: Style) {
        if y < self.area.height {
            let row = Rect { y: self.area.y + y, height: 1, ..self.area };
            self.buffer.set_style(row, style);
        }
    }
}

/// Draws a frame.
pub(super) fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    let parts = parts(area, model);
    header(model, theme, &mut Pen { buffer, area: parts.header });
    queues(model, theme, &mut Pen { buffer, area: parts.queues });
    let main = &mut Pen { buffer, area: parts.main };
    if model.mode == Mode::Help {
        help(main);
    } else if let Some(detail) = &model.detail {
        look(model, detail, theme, main);
    } else {
        processes(model, theme, main);
    }
    events(model, theme, &mut Pen { buffer, area: parts.events });
    footer(model, theme, &mut Pen { buffer, area: parts.footer });
    // A question is never out of sight.
    if parts.footer.height == 0 && model.confirm.is_some() {
        Pen { buffer, area }.line(0, &outcome(model).1, TITLE);
    }
}

fn header(model: &Model, theme: Theme, pen: &mut Pen<'_>) {
    let (tone, connection) = match &model.connection {
        Connection::Up => (Tone::Good, "connected".to_owned()),
        Connection::Blocked(reason) => (Tone::Bad, format!("BLOCKED: {reason}")),
        Connection::Lost { since, why, attempt } => {
            let since = short(model.now.at.saturating_sub(*since));
            let attempt = if *attempt > 0 { format!(", attempt {attempt}") } else { String::new() };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            (Tone::Bad, format!("CONNECTION LOST for {since}, reconnecting{attempt}{why}"))
        }
    };
    pen.fill(0, TITLE);
    pen.line(0, &format!(" homing top  {}", shown_time(model.now.time)), TITLE);
    let x = 36;
    pen.put(x, 0, pen.area.width.saturating_sub(x), &connection, TITLE.patch(theme.tone(tone)));
    let after = x + 2 + u16::try_from(connection.width()).unwrap_or(u16::MAX).min(1000);
    let prefix = model.prefix.as_ref().map_or_else(String::new, |prefix| format!("  prefix {prefix}"));
    pen.put(after, 0, pen.area.width.saturating_sub(after), &format!("{}{prefix}", model.broker), TITLE);
    let mut counts = Vec::new();
    for state in ProcessState::ALL {
        match model.count(state) {
            (0, _) => {}
            (all, 0) => counts.push(format!("{state} {all}")),
            (all, paused) => counts.push(format!("{state} {all} ({paused} paused)")),
        }
    }
    if counts.is_empty() {
        counts.push("no process is known yet".to_owned());
    }
    if !model.filter.is_empty() {
        counts.push(format!("filter {:?} shows {} of {}", model.filter, model.shown(), model.known()));
    }
    if model.is_cut {
        counts.push("the store has more".to_owned());
    }
    for (number, what) in [
        (model.left_out(), "left out"),
        (model.missed, "changes missed"),
        (u64::try_from(model.unreadable).unwrap_or(u64::MAX), "unreadable in the store"),
    ] {
        if number > 0 {
            counts.push(format!("{number} {what}"));
        }
    }
    if model.store_trouble.is_some() {
        counts.push("THE STORE CANNOT BE READ".to_owned());
    }
    pen.line(1, &format!(" {}", counts.join("  ")), Style::new());
}

fn queues(model: &Model, theme: Theme, pen: &mut Pen<'_>) {
    let names = model.queues.iter().map(|queue| queue.name.width()).max().unwrap_or(0).clamp(5, 40);
    let names = u16::try_from(names).unwrap_or(40);
    let heads = ["READY", "UNACKED", "CONSUMERS", "IN/s", "OUT/s", "ACKED/s", "GROWTH/s"];
    pen.put(0, 0, names, "QUEUE", HEAD);
    let column = |index: usize| names + 1 + u16::try_from(index).unwrap_or(0) * 10;
    for (index, head) in heads.iter().enumerate() {
        pen.put(column(index), 0, 9, &format!("{head:>9}"), HEAD);
    }
    for (y, queue) in (1..).zip(&model.queues) {
        pen.put(0, y, names, &queue.name, Style::new());
        if queue.is_missing {
            pen.put(column(0) + 4, y, u16::MAX, "no such queue yet", theme.tone(Tone::Dim));
            continue;
        }
        if let Some(trouble) = &queue.trouble {
            pen.put(column(0), y, u16::MAX, trouble, theme.tone(Tone::Warning));
            continue;
        }
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let cells = [
            number(queue.ready),
            number(queue.unacknowledged),
            number(queue.consumers),
            rate(queue.rates.published),
            rate(queue.rates.delivered),
            rate(queue.rates.acknowledged),
            rate(queue.rates.growth),
        ];
        for (index, cell) in cells.iter().enumerate() {
            pen.put(column(index), y, 9, &format!("{cell:>9}"), Style::new());
        }
    }
}

/// A time as three or four characters.
pub(super) fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds}s"),
        seconds @ 100..6000 => format!("{}m", seconds / 60),
        seconds @ 6000..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn age(time: Option<SystemTime>, now: SystemTime) -> String {
    time.map_or_else(|| "?".to_owned(), |time| short(now.duration_since(time).unwrap_or_default()))
}

/// The columns of the list: where each begins, and how wide it is.
struct Columns {
    pid: u16,
    state: u16,
    age: u16,
    since: u16,
    worker: u16,
    class: u16,
    message: u16,
    width: u16,
}

impl Columns {
    /// Those that are narrow come first; the message has the rest.
    fn of(model: &Model, width: u16) -> Self {
        let widest = |text: fn(&Process) -> &str, least: usize, most: usize| {
            let widest = model.rows().map(|(process, _)| text(process).width()).max().unwrap_or(0);
            u16::try_from(widest.clamp(least, most)).unwrap_or(u16::MAX)
        };
        let none_if = |wanted: u16, narrow: bool| if narrow { 0 } else { wanted };
        let state = if width < 50 { 8 } else { 15 };
        let age = none_if(4, width < 30);
        let since = none_if(4, width < 60);
        let worker = none_if(widest(|process| &process.worker, 6, 16), width < 80);
        let class = none_if(widest(|process| &process.class, 5, 20), width < 80);
        let gaps = [state, age, since, worker, class].into_iter().filter(|width| *width > 0).count();
        let others = state + age + since + worker + class + u16::try_from(gaps).unwrap_or(0);
        let room = usize::from(width.saturating_sub(others).saturating_sub(if width < 60 { 0 } else { 20 }));
        let pid = widest(|process| &process.name, 3, 36.min(room.max(3)));
        let message = width.saturating_sub(pid + others + 1);
        Columns { pid, state, age, since, worker, class, message, width }
    }

    fn put(&self, pen: &mut Pen<'_>, y: u16, cells: [&str; 7], style: Style, state: Style) {
        let widths = [self.pid, self.state, self.age, self.since, self.worker, self.class, self.message];
        let mut x = 0;
        for (index, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
            if width == 0 || x >= self.width {
                continue;
            }
            let own = if index == 1 { style.patch(state) } else { style };
            // Ages stand to the right.
            let gap = if matches!(index, 2 | 3) {
                width.saturating_sub(u16::try_from(cell.width()).unwrap_or(width))
            } else {
                0
            };
            pen.put(x + gap, y, width - gap.min(width), cell, own);
            x += width + 1;
        }
    }
}

fn processes(model: &Model, theme: Theme, pen: &mut Pen<'_>) {
    let columns = Columns::of(model, pen.area.width);
    columns.put(pen, 0, ["PID", "STATE", "AGE", "FOR", "WORKER", "CLASS", "MESSAGE"], HEAD, HEAD);
    let mut any = false;
    for (y, (process, is_selected)) in (1..).zip(model.rows()) {
        any = true;
        let style = if is_selected { TITLE } else { Style::new() };
        if is_selected {
            pen.fill(y, style);
        }
        let state = if columns.state < 15 && process.is_paused { "paused" } else { process.state_text() };
        let (age, since) = (age(process.created, model.now.time), age(process.changed, model.now.time));
        let message = process.last_message();
        let cells = [&process.name, state, &age, &since, &process.worker, &process.class, &message];
        columns.put(pen, y, cells, style, theme.state(process));
    }
    if !any {
        let text = match (model.known(), model.store.is_some()) {
            (0, true) => "no process yet",
            (0, false) => "no process yet: one shows when it changes its state; name pids to ask for others",
            _ => "no process has these words in it; Esc clears the filter",
        };
        pen.line(1, text, theme.tone(Tone::Dim));
    }
}

fn events(model: &Model, theme: Theme, pen: &mut Pen<'_>) {
    if pen.area.height == 0 {
        return;
    }
    pen.line(0, if model.events.is_empty() { "no events yet" } else { "EVENTS" }, HEAD);
    let room = usize::from(pen.area.height - 1);
    let first = model.events.len().saturating_sub(room);
    for (y, line) in (1..).zip(model.events.iter().skip(first)) {
        pen.put(0, y, 9, &clock(line.time), theme.tone(Tone::Dim));
        pen.put(10, y, u16::MAX, &line.text, theme.tone(line.tone));
    }
}

/// The time of the day, in UTC.
fn clock(time: SystemTime) -> String {
    shown_time(time).get(11..20).unwrap_or_default().to_owned()
}

/// What the last line has to tell.
fn outcome(model: &Model) -> (Tone, String) {
    if let Some(confirm) = &model.confirm {
        return (Tone::Bad, format!("kill {}?  y kills, f kills by force, any other key does not", confirm.name));
    }
    if let Mode::Filter { .. } = model.mode {
        return (Tone::Plain, format!("/{}_   Enter keeps it, Esc does not", model.filter));
    }
    let (tone, text) = match &model.outcome {
        Some((_, tone, text)) => (*tone, text.clone()),
        None => (Tone::Plain, String::new()),
    };
    let more = match model.under_way() {
        0 | 1 => String::new(),
        several => format!("  ({several} requests under way)"),
    };
    (tone, format!("{text}{more}"))
}

fn footer(model: &Model, theme: Theme, pen: &mut Pen<'_>) {
    let (tone, text) = outcome(model);
    let style = theme.tone(tone);
    let style = if model.confirm.is_some() { style.add_modifier(Modifier::REVERSED) } else { style };
    pen.line(0, &text, style);
    let keys = if model.detail.is_some() {
        "Esc back  arrows scroll  p pause  l play  K kill  ? keys  q end"
    } else {
        "arrows move  Enter look into  / filter  p pause  l play  K kill  ? keys  q end"
    };
    pen.line(1, keys, theme.tone(Tone::Dim));
}

fn help(pen: &mut Pen<'_>) {
    let lines = [
        "up, down, j, k, PageUp, PageDown, Home, End   move",
        "Enter       look into a process; Esc goes back",
        "/           show only processes that have these words: pid, state, class, worker, message",
        "p           pause the process",
        "l, space    play it",
        "K           kill it, after a question: y kills, f kills by force",
        "q, Ctrl-C   end; Ctrl-Z stops, fg goes on",
        "",
        "FOR is how long a process has been in its state. A state of `?` was not told yet.",
        "Any key goes back.",
    ];
    pen.line(0, "KEYS", HEAD);
    for (y, line) in (1..).zip(lines) {
        pen.line(y, line, Style::new());
    }
}

/// The lines about one process.
pub(super) fn detail_lines(model: &Model, detail: &Detail) -> Vec<(Tone, String)> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, text: &str| lines.push((Tone::Plain, format!("{name:<12} {text}")));
    let Some(process) = model.process(&detail.pid) else { return vec![(Tone::Warning, "it is gone".to_owned())] };
    fact("process", &process.name);
    let since = process.changed.map_or(String::new(), |changed| {
        format!(" since {}, for {}", shown_time(changed), age(process.changed, model.now.time))
    });
    fact("state", &format!("{}{since}", process.state_text()));
    if let Some(created) = process.created {
        fact("created", &format!("{}, {} ago", shown_time(created), age(process.created, model.now.time)));
    }
    for (name, text) in [("class", &process.class), ("worker", &process.worker), ("message", &process.last_message())] {
        if !text.is_empty() {
            fact(name, text);
        }
    }
    match &detail.answer {
        None => {}
        Some(Err(why)) => lines.push((Tone::Warning, format!("{:<12} {why}", "answer"))),
        Some(Ok((time, fields))) => {
            lines.push((Tone::Dim, format!("{:<12} at {}", "answer", shown_time(*time))));
            lines.extend(fields.iter().map(|(name, text)| (Tone::Plain, format!("  {name:<10} {text}"))));
        }
    }
    let has_moments = match &detail.stored {
        Some(Found::Stored { facts, moments, log }) => {
            lines.extend(facts.iter().map(|(name, text)| (Tone::Plain, format!("{name:<12} {text}"))));
            lines.push((Tone::Dim, "states".to_owned()));
            lines.extend(moments.iter().map(|moment| {
                let paused = if moment.is_paused { ", paused" } else { "" };
                let text = format!("  {}  {}{paused}, step {}", shown_time(moment.time), moment.state, moment.step);
                (Tone::Plain, text)
            }));
            lines.push((Tone::Dim, if log.is_empty() { "log: empty" } else { "log" }.to_owned()));
            for line in log {
                let tone = if line.is_error { Tone::Warning } else { Tone::Plain };
                lines.push((tone, format!("  {}  {}", clock(line.time), line.text)));
            }
            true
        }
        Some(Found::NotThere) => {
            lines.push((Tone::Dim, "the store has no such process".to_owned()));
            false
        }
        Some(Found::Failed(why)) => {
            lines.push((Tone::Bad, format!("the store: {why}")));
            false
        }
        None => false,
    };
    if !has_moments && !process.history.is_empty() {
        lines.push((Tone::Dim, "states since this view began".to_owned()));
        lines.extend(
            process.history.iter().map(|(time, state)| (Tone::Plain, format!("  {}  {state}", shown_time(*time)))),
        );
    }
    lines
}

fn look(model: &Model, detail: &Detail, theme: Theme, pen: &mut Pen<'_>) {
    for (y, (tone, line)) in (0..).zip(detail_lines(model, detail).into_iter().skip(detail.scroll)) {
        if y >= pen.area.height {
            break;
        }
        pen.line(y, &line, theme.tone(tone));
    }
}

/// A buffer as lines of text.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut line = String::new();
        let mut x = buffer.area.left();
        while x < buffer.area.right() {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character stands in two cells, of which the second is empty.
            x += u16::try_from(symbol.width()).unwrap_or(1).max(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
