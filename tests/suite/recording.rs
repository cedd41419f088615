//! What `tracing` and writers are told, kept to look at.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Keeps what is written to it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A span or an event.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) name: &'static str,
    pub(crate) target: &'static str,
    pub(crate) level: Level,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Recorded {
    /// A field's value; empty where it has none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// Everything of every level that this thread tells `tracing`, until it is dropped.
pub(crate) struct Recording {
    recorder: Recorder,
    text: Buffer,
    _default: DefaultGuard,
}

impl Recording {
    pub(crate) fn start() -> Self {
        let (recorder, text) = (Recorder::default(), Buffer::default());
        let dispatch = Self::dispatch(recorder.clone(), text.clone());
        Self { recorder, text, _default: tracing::dispatcher::set_default(&dispatch) }
    }

    /// For code that runs on threads of its own.
    pub(crate) fn dispatch(recorder: Recorder, text: Buffer) -> Dispatch {
        // While there is only one dispatcher, `tracing` asks that of whichever thread meets a
        // callsite first, which may be a test without one, and then never asks again.
        static OTHERS: LazyLock<[Dispatch; 2]> =
            LazyLock::new(|| [Registry::default(), Registry::default()].map(Dispatch::new));
        LazyLock::force(&OTHERS);
        let lines = tracing_subscriber::fmt::layer()
            .with_span_events(FmtSpan::FULL)
            .with_writer(move || text.clone());
        Dispatch::new(Registry::default().with(recorder).with(lines))
    }

    /// The lines that an operator would read.
    pub(crate) fn text(&self) -> String {
        self.text.text()
    }

    /// The spans of this name.
    pub(crate) fn spans(&self, name: &str) -> Vec<Recorded> {
        self.recorder.spans(name)
    }

    /// The events with this target.
    pub(crate) fn events(&self, target: &str) -> Vec<Recorded> {
        self.recorder.events(target)
    }
}

/// The layer that takes the fields down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    spans: Vec<Recorded>,
    events: Vec<Recorded>,
}

impl Recorder {
    pub(crate) fn spans(&self, name: &str) -> Vec<Recorded> {
        self.all(|records| &records.spans, |span| span.name == name)
    }

    pub(crate) fn events(&self, target: &str) -> Vec<Recorded> {
        self.all(|records| &records.events, |event| event.target == target)
    }

    fn all(
        &self,
        list: impl Fn(&Records) -> &Vec<Recorded>,
        wanted: impl Fn(&Recorded) -> bool,
    ) -> Vec<Recorded> {
        let records = self.0.lock().unwrap();
        list(&records).iter().filter(|one| wanted(one)).cloned().collect()
    }
}

/// Where a span stands in the list; the ids of spans are used again.
struct Index(usize);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut span = Recorded::of(attributes.metadata());
        attributes.record(&mut span);
        let mut records = self.0.lock().unwrap();
        context.span(id).unwrap().extensions_mut().insert(Index(records.spans.len()));
        records.spans.push(span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let index = span.extensions().get::<Index>().unwrap().0;
        values.record(&mut self.0.lock().unwrap().spans[index]);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut recorded = Recorded::of(event.metadata());
        event.record(&mut recorded);
        self.0.lock().unwrap().events.push(recorded);
    }
}

impl Recorded {
    fn of(metadata: &tracing::Metadata<'static>) -> Self {
        Self {
            name: metadata.name(),
            target: metadata.target(),
            level: *metadata.level(),
            fields: BTreeMap::new(),
        }
    }
}

impl Visit for Recorded {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}
