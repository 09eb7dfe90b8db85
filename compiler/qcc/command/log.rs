//! The log: what the compiler reports of its work, a line each to stderr.

use std::fmt::{Debug, Write as _};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::terminal;

/// Sends the log to stderr at the level of `QCC_LOG`.
pub fn start() {
    let level = std::env::var("QCC_LOG").ok().and_then(|l| l.parse::<LevelFilter>().ok());
    if let Some(level) = level {
        // A second call changes nothing.
        let _ = tracing::subscriber::set_global_default(Log { level, start: Instant::now() });
    }
}

/// Writes events; nothing in qcc opens spans.
struct Log {
    level: LevelFilter,
    start: Instant,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let seconds = self.start.elapsed().as_secs_f64();
        terminal::note(&format!("{seconds:9.3} {level:>5} {target}: {}{}", fields.message, fields.others));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event in words: its message, and ` name=value` for what else it carries.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
