//! Reads the layers in order and collects every mistake on the way.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::keys::{KEYS, Key};
use super::{Config, rules};

/// Where a configuration comes from, besides the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The TOML file.
    pub(crate) file: Option<PathBuf>,
    /// The environment, all of it; only names that start with `GRANARY__` are looked at.
    pub(crate) environment: Vec<(String, String)>,
    /// Flags: the flag as the user knows it, the key's path, the value.
    pub(crate) flags: Vec<(String, String, String)>,
}

impl Sources {
    /// Adds a flag that sets the key at `path`, if it was given.
    pub(crate) fn flag(&mut self, flag: &str, path: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.flags.push((flag.to_owned(), path.to_owned(), value.to_string()));
        }
    }
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The effective configuration.
///
/// # Errors
/// Every mistake of every layer: unknown keys, values of the wrong kind, values that do not go together.
pub(crate) fn load(sources: &Sources) -> Result<Config, Mistakes> {
    let mut config = Config::default();
    let mut mistakes = Vec::new();
    if let Some(path) = &sources.file {
        apply_file(&mut config, path, &mut mistakes);
    }
    apply_environment(&mut config, &sources.environment, &mut mistakes);
    for (flag, path, value) in &sources.flags {
        let set = find(path)
            .ok_or_else(|| format!("unknown key {path}"))
            .and_then(|key| (key.set_text)(&mut config, value).map_err(|mistake| format!("{path}: {mistake}")));
        mistakes.extend(set.err().map(|mistake| format!("{flag}: {mistake}")));
    }
    // What was refused above keeps its default, so that the rules add no mistakes that are only echoes.
    mistakes.extend(rules::broken(&config));
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path() == path)
}

fn apply_file(config: &mut Config, path: &Path, mistakes: &mut Vec<String>) {
    let name = path.display();
    let table = std::fs::read_to_string(path)
        .map_err(|error| format!("{name}: read the file: {error}"))
        .and_then(|text| text.parse::<Table>().map_err(|error| format!("{name}: {}", error.to_string().trim_end())));
    let table = match table {
        Ok(table) => table,
        Err(mistake) => return mistakes.push(mistake),
    };
    for (section, value) in &table {
        let Value::Table(entries) = value else {
            mistakes.push(format!("{name}: {section}: expected a section [{section}], got {}", value.type_str()));
            continue;
        };
        if !KEYS.iter().any(|key| key.section == section) {
            mistakes.push(format!("{name}: {section}: unknown section{}", suggest(section, sections())));
            continue;
        }
        for (entry, value) in entries {
            let set = find(&format!("{section}.{entry}"))
                .ok_or_else(|| format!("unknown key{}", suggest(entry, names(section))))
                .and_then(|key| (key.set_toml)(config, value));
            mistakes.extend(set.err().map(|mistake| format!("{name}: {section}.{entry}: {mistake}")));
        }
    }
}

fn apply_environment(config: &mut Config, environment: &[(String, String)], mistakes: &mut Vec<String>) {
    let mut ours: Vec<_> = environment.iter().filter(|(name, _)| name.starts_with("GRANARY__")).collect();
    ours.sort();
    for (name, value) in ours {
        let set = KEYS
            .iter()
            .find(|key| key.variable() == *name)
            .ok_or_else(|| "no key has this variable".to_owned())
            .and_then(|key| (key.set_text)(config, value));
        mistakes.extend(set.err().map(|mistake| format!("{name}: {mistake}")));
    }
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.section)
}

fn names(section: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(move |key| key.section == section).map(|key| key.name)
}

/// A hint at the known word that a typing error most likely meant: one that agrees in all but two letters.
fn suggest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.map(|word| (distance(given, word), word)).min();
    match nearest {
        Some((1..=2, word)) => format!(", did you mean {word}"),
        _ => String::new(),
    }
}

/// How many letters must be added, removed or changed to turn `from` into `to`.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::super::{ByteCount, Engine};
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn sources(file: &tempfile::NamedTempFile) -> Sources {
        Sources { file: Some(file.path().to_owned()), ..Sources::default() }
    }

    #[test]
    fn defaults_break_no_rule() {
        assert_eq!(load(&Sources::default()), Ok(Config::default()));
    }

    #[test]
    fn later_layers_win() {
        let file = file(
            "[node]\nengine = 'memory'\nmemory_table_bytes = '8MiB'\nrow_cache_bytes = 4096\n[router]\ndeadline = '3s'\n",
        );
        let mut sources = sources(&file);
        sources.environment = vec![
            ("GRANARY__NODE__MEMORY_TABLE_BYTES".to_owned(), "16MiB".to_owned()),
            ("GRANARY__CLUSTER__SEEDS".to_owned(), "a:1, b:2,c:3".to_owned()),
            ("GRANARY_ENDPOINT".to_owned(), "not ours".to_owned()),
        ];
        sources.flag("--deadline", "router.deadline", Some("4s"));
        sources.flag("--listen", "router.listen", None::<String>);
        let config = load(&sources).expect("no mistakes");
        assert_eq!(config.node.engine, Engine::Memory);
        assert_eq!(config.node.memory_table_bytes, ByteCount::mib(16));
        assert_eq!(config.node.row_cache_bytes, ByteCount(4096));
        assert_eq!(config.cluster.seeds, ["a:1", "b:2", "c:3"]);
        assert_eq!(config.router.deadline, Duration::from_secs(4));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let file = file(
            "top = 1\n[node]\nengin = 'sled'\nseal_interval = 2\n[cluster]\nshards = 'many'\nreplicas = 2\n[roter]\n",
        );
        let mut sources = sources(&file);
        sources.environment = vec![
            ("GRANARY__NODE__SPEED".to_owned(), "11".to_owned()),
            ("GRANARY__LOG__FORMAT".to_owned(), "xml".to_owned()),
        ];
        sources.flag("--set", "query.memory", Some("1GB"));
        let mistakes = load(&sources).expect_err("eight mistakes").0;
        for part in [
            "top: expected a section [top], got integer",
            "node.engin: unknown key, did you mean engine",
            "node.seal_interval: expected time, got integer",
            "cluster.shards: expected a whole number, got string",
            "roter: unknown section, did you mean router",
            "GRANARY__NODE__SPEED: no key has this variable",
            "GRANARY__LOG__FORMAT: \"xml\" is neither text nor json",
            "--set: unknown key query.memory",
            "cluster.replicas: must be 1, 3, 5 or 7, got 2",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part:?} is missing in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), 9, "{mistakes:#?}");
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        let file = file("[node]\nengine = \n");
        let mistakes = load(&sources(&file)).expect_err("not TOML").0;
        assert!(mistakes[0].contains("line 2"), "{mistakes:?}");
        let missing = Sources { file: Some("/no/such/file.toml".into()), ..Sources::default() };
        assert!(load(&missing).expect_err("no file").to_string().contains("/no/such/file.toml"));
    }

    #[test]
    fn a_secret_in_the_open_is_refused_and_not_repeated() {
        let file = file("[object_store]\ns3_secret_access_key = 'hunter2'\n");
        let mistakes = load(&sources(&file)).expect_err("by reference only").to_string();
        assert!(!mistakes.contains("hunter2") && mistakes.contains("by reference"), "{mistakes}");
    }
}
