//! The kinds of values a key can have: how each is read from TOML or from text, and how it is shown.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::units::{self, ByteCount};

/// A kind of value. Mistakes are sentences that say what was expected.
pub(super) trait Setting: Sized {
    /// What the reference calls it.
    const KIND: &'static str;

    /// From text: the environment and flags, and strings in the file.
    fn from_text(text: &str) -> Result<Self, String>;

    /// From the file. Kinds that TOML knows also take TOML's own form.
    fn from_toml(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Self::from_text(text),
            other => Err(format!("expected {}, got {}", Self::KIND, other.type_str())),
        }
    }

    /// As it stands in the file; `None` for a key that is not set.
    fn show(&self) -> Option<Value>;
}

impl Setting for String {
    const KIND: &'static str = "text";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";

    fn from_text(text: &str) -> Result<Self, String> {
        String::from_text(text).map(Self::from)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.display().to_string()))
    }
}

impl Setting for u32 {
    const KIND: &'static str = "number";

    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is not a whole number from 0 to {}", Self::MAX))
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        u64::from_toml(value)
            .and_then(|number| Self::try_from(number).map_err(|_| format!("{number} is more than {}", Self::MAX)))
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Integer(i64::from(*self)))
    }
}

impl Setting for u64 {
    const KIND: &'static str = "number";

    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is not a whole number"))
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Self::try_from(*number).map_err(|_| format!("{number} is negative")),
            other => Err(format!("expected a whole number, got {}", other.type_str())),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)))
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";

    fn from_text(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("expected true or false, got {}", value.type_str()))
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for ByteCount {
    const KIND: &'static str = "bytes";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(_) => u64::from_toml(value).map(Self),
            Value::String(text) => Self::from_text(text),
            other => Err(format!("expected bytes such as \"64MiB\", got {}", other.type_str())),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Setting for Duration {
    const KIND: &'static str = "time";

    fn from_text(text: &str) -> Result<Self, String> {
        units::parse_duration(text)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(units::show_duration(*self)))
    }
}

impl Setting for Vec<String> {
    const KIND: &'static str = "list of text";

    /// From text, items stand between commas.
    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(String::from_text).collect()
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Self::from_text(text),
            Value::Array(items) => items.iter().map(String::from_toml).collect(),
            other => Err(format!("expected a list of text, got {}", other.type_str())),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Array(self.iter().cloned().map(Value::String).collect()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;

    fn from_text(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Some)
    }

    fn from_toml(value: &Value) -> Result<Self, String> {
        T::from_toml(value).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(T::show)
    }
}

/// The engine under the online store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// On disk.
    Sled,
    /// On disk.
    Fjall,
    /// In memory, rebuilt from snapshot and Raft log at every start: for tests and small machines.
    Memory,
}

impl Setting for Engine {
    const KIND: &'static str = "sled, fjall or memory";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "sled" => Ok(Self::Sled),
            "fjall" => Ok(Self::Fjall),
            "memory" => Ok(Self::Memory),
            other => Err(format!("{other:?} is neither sled nor fjall nor memory")),
        }
    }

    fn show(&self) -> Option<Value> {
        let name = match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
            Self::Memory => "memory",
        };
        Some(Value::String(name.to_owned()))
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Setting for LogFormat {
    const KIND: &'static str = "text or json";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is neither text nor json")),
        }
    }

    fn show(&self) -> Option<Value> {
        let name = match self {
            Self::Text => "text",
            Self::Json => "json",
        };
        Some(Value::String(name.to_owned()))
    }
}

/// Where a secret is, never the secret itself: so a configuration can be printed, mailed and committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretRef {
    /// In an environment variable: `env:NAME`.
    Env(String),
    /// In a file, without the white space around it: `file:/path`.
    File(PathBuf),
}

impl SecretRef {
    /// Fetches the secret.
    ///
    /// # Errors
    /// The variable is not set, or the file cannot be read.
    pub(crate) fn resolve(&self) -> Result<String, String> {
        match self {
            Self::Env(name) => std::env::var(name).map_err(|_| format!("environment variable {name} is not set")),
            Self::File(path) => fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| format!("read secret file {}: {error}", path.display())),
        }
    }
}

impl Setting for SecretRef {
    const KIND: &'static str = "secret";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            // The text may be the secret itself: it is not repeated.
            _ => Err("a secret is given by reference: env:NAME or file:/path".to_owned()),
        }
    }

    fn show(&self) -> Option<Value> {
        let text = match self {
            Self::Env(name) => format!("env:{name}"),
            Self::File(path) => format!("file:{}", path.display()),
        };
        Some(Value::String(text))
    }
}
