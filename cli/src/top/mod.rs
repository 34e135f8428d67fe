//! `homing top`: processes, queues and events in the terminal as they change.
//!
//! [`Model`] decides, [`view`] draws, [`feeds`] brings events and carries out what the model asks for, [`screen`] has the terminal.

mod feeds;
mod keys;
mod model;
mod once;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use std::time::{Duration, Instant};

use homing::process::store::SqlitePersister;
use homing::process::{ProcessController, ProcessEvents};
use homing::{Communicator, CommunicatorBuilder};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use self::feeds::{Clock, Feed};
use self::model::{Ask, Event, Model, Now};
use self::screen::Screen;
pub(crate) use self::screen::restore;
use self::view::Theme;
use crate::args::{Colours, Format, Global, Top, TopFault};
use crate::connection::{Watched, begin_to_stay, close, options};
use crate::doctor::Management;
use crate::failure::Failure;
use crate::stop::Stop;
use crate::{DEFAULT_BROKER, contexts, output};

/// The screen is drawn this often at most.
const FRAME: Duration = Duration::from_millis(100);

/// How many events are taken in before keys are looked for again.
const AT_ONCE: usize = 256;

/// How long the end of the connection may take when a user wants to be gone.
const FAREWELL: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: Top, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    if !command.once {
        if global.output.format == Format::Json {
            return Err(Failure::Usage("--format json prints one frame: give --once".to_owned()));
        }
        screen::check()?;
    }
    let management = command.management.as_deref().map(Management::at).transpose()?;
    let options = options(global)?;
    let queues = feeds::queue_names(&options, command.queue.clone())?;
    let is_aiida = global.broker.aiida || global.broker.profile.is_some();
    let store = match command.no_store {
        true => None,
        false => feeds::open_store(command.store.as_deref(), is_aiida).await?,
    };
    let begin = async |communicator: &Communicator| {
        let watched = Watched::new(communicator);
        let events = ProcessController::new(communicator).events(command.pids.clone()).await?;
        Ok((watched, events))
    };
    let mut reader_gone = std::pin::pin!(output::reader_gone());
    let (communicator, (watched, changes)) = tokio::select! {
        started = begin_to_stay(global, options.clone(), begin) => started?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
        () = &mut reader_gone => return Ok(()),
    };
    let view = View::begin(&communicator, global, options, store, queues, management, &command.pids, watched, changes);
    let shown = tokio::select! {
        shown = async {
            if command.once {
                view.once(command.wait.unwrap_or_default(), global).await
            } else {
                view.live(command.seed_fault, global).await
            }
        } => shown,
        signal = stop.wait() => Err(Failure::Interrupted(signal, None)),
        () = &mut reader_gone => Err(Failure::ReaderGone),
    };
    if shown.is_ok() {
        // A broker that is away does not hold up whoever ends this.
        let _ = tokio::time::timeout(FAREWELL, close(&communicator)).await;
    }
    shown
}

/// A view and all that feeds it.
struct View {
    model: Model,
    clock: Clock,
    feed: Feed,
    events: mpsc::Receiver<Event>,
    ended: oneshot::Receiver<Failure>,
    communicator: Communicator,
    controller: ProcessController,
    store: Option<SqlitePersister>,
}

impl View {
    #[expect(clippy::too_many_arguments, reason = "each feed has its source")]
    fn begin(
        communicator: &Communicator,
        global: &Global,
        options: CommunicatorBuilder,
        store: Option<SqlitePersister>,
        queues: Vec<String>,
        management: Option<Management>,
        pids: &[homing::process::Pid],
        watched: Watched,
        changes: ProcessEvents,
    ) -> Self {
        let clock = Clock::start();
        let (feed, events) = Feed::new(clock);
        let (end, ended) = oneshot::channel();
        let link = feed.clone();
        tokio::spawn(async move {
            // Nobody waits for it any more when the view has ended.
            let _ = end.send(feeds::connection(link, watched).await);
        });
        tokio::spawn(feeds::changes(feed.clone(), changes));
        if let Some(store) = &store {
            tokio::spawn(feeds::store(feed.clone(), store.clone(), pids.to_vec()));
        }
        tokio::spawn(feeds::queues(feed.clone(), options, queues, management));
        let urls = contexts::shown_urls(global.broker.broker.as_deref().unwrap_or(DEFAULT_BROKER));
        let broker = urls.split('?').next().unwrap_or_default();
        let file = store.as_ref().map(|store| store.path().display().to_string());
        let mut model = Model::new(broker, file.as_deref(), pids, clock.now());
        model.prefix = global.names.prefix.as_deref().map(output::without_controls);
        let controller = ProcessController::new(communicator);
        View { model, clock, feed, events, ended, communicator: communicator.clone(), controller, store }
    }

    fn update(&mut self, event: Event) -> Outcome {
        let mut outcome = Outcome::GoesOn;
        for ask in self.model.update(event, self.clock.now()) {
            let feed = self.feed.clone();
            match ask {
                Ask::Status(pid) => drop(tokio::spawn(feeds::status(feed, self.controller.clone(), pid))),
                Ask::Act(pid, action) => {
                    let (communicator, store) = (self.communicator.clone(), self.store.clone());
                    drop(tokio::spawn(feeds::act(feed, communicator, store, pid, action)));
                }
                Ask::Detail(pid) => {
                    if let Some(store) = &self.store {
                        drop(tokio::spawn(feeds::detail(feed, store.clone(), pid)));
                    }
                }
                Ask::Suspend => outcome = Outcome::Suspends,
                Ask::Quit => return Outcome::Ends,
            }
        }
        outcome
    }

    async fn live(mut self, fault: Option<TopFault>, global: &Global) -> Result<(), Failure> {
        let colours = output::colours_on(&std::io::stdout(), global.output.color);
        if global.output.color == Colours::Always {
            crossterm::style::force_color_output(true);
        }
        let theme = if colours { Theme::Colours } else { Theme::Plain };
        let mut keys = keys::Keys::read();
        let mut resumed = signal(SignalKind::from_raw(nix::libc::SIGCONT))?;
        let mut screen = Screen::enter()?;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(AT_ONCE);
        let mut next_frame = Instant::now();
        let mut is_stale = true;
        loop {
            let mut came: Option<Event> = None;
            tokio::select! {
                biased;
                failure = &mut self.ended => return Err(failure.unwrap_or(Failure::Other("the connection was closed".to_owned()))),
                key = keys.next() => match key {
                    Some(Ok(keys::Pressed::Key(key))) => {
                        seed_fault(fault, &key);
                        came = Some(Event::Key(key));
                    }
                    Some(Ok(keys::Pressed::Resized)) => is_stale = true,
                    Some(Err(error)) => return Err(Failure::Other(format!("the terminal cannot be read: {error}"))),
                    None => return Ok(()),
                },
                _ = resumed.recv() => {
                    screen.enter_again()?;
                    is_stale = true;
                }
                () = tokio::time::sleep_until(next_frame.into()), if is_stale => {
                    let (model, now) = (&mut self.model, self.clock.now());
                    screen.draw(|frame| {
                        let area = frame.area();
                        draw(model, theme, area, frame.buffer_mut(), now);
                    })?;
                    is_stale = false;
                    // After the drawing, which may take its time: a slow terminal leaves time for keys.
                    next_frame = Instant::now() + FRAME;
                }
                _ = tick.tick() => came = Some(Event::Tick),
                _ = self.events.recv_many(&mut batch, AT_ONCE) => {}
            }
            let logs = output::held_errors().into_iter().map(Event::Log);
            for event in batch.drain(..).chain(came).chain(logs) {
                is_stale = true;
                match self.update(event) {
                    Outcome::GoesOn => {}
                    Outcome::Suspends => screen.suspend()?,
                    Outcome::Ends => return Ok(()),
                }
            }
        }
    }
}

/// What an event means for the view as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    GoesOn,
    Suspends,
    Ends,
}

fn seed_fault(fault: Option<TopFault>, key: &model::Key) {
    match fault {
        Some(fault) if *key == model::Key::Char('!') => match fault {
            TopFault::Panic => panic!("a fault was asked for"),
            TopFault::PanicElsewhere => drop(std::thread::spawn(|| panic!("a fault was asked for")).join()),
            TopFault::Stuck => std::thread::sleep(Duration::from_secs(60)),
        },
        _ => {}
    }
}

/// A frame of the model as it is now.
fn draw(model: &mut Model, theme: Theme, area: Rect, buffer: &mut Buffer, now: Now) {
    let parts = view::parts(area, model);
    model.settle(view::rows(&parts), now);
    if let Some(detail) = &model.detail {
        let lines = view::detail_lines(model, detail).len();
        let last = lines.saturating_sub(usize::from(parts.main.height));
        if let Some(detail) = &mut model.detail {
            detail.within(last);
        }
    }
    view::draw(model, theme, area, buffer);
}
