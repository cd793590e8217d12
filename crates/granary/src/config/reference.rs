//! Shows a configuration as TOML, and all keys as a page of documentation.

use std::fmt::Write;

use toml::Value;

use super::Config;
use super::keys::{KEYS, Key};

/// The effective configuration as a TOML file. Keys that are not set stand there as comments.
pub(crate) fn print(config: &Config) -> String {
    let mut text = String::new();
    for keys in KEYS.chunk_by(|one, next| one.section == next.section) {
        if !text.is_empty() {
            text.push('\n');
        }
        append(&mut text, format_args!("[{}]\n", keys[0].section));
        for key in keys {
            match (key.show)(config) {
                Some(value) => append(&mut text, format_args!("{} = {}\n", key.name, inline(&value))),
                None => append(&mut text, format_args!("# {} is not set\n", key.name)),
            }
        }
    }
    text
}

/// The page `docs/operations/config.md`.
pub(crate) fn reference() -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Generated: cargo run -- config --reference > docs/operations/config.md (a test compares) -->\n\n\
         Every key has a default that suits a laptop. Later layers win: defaults, the TOML file (`--config granary.toml`),\n\
         the environment (`GRANARY__SECTION__KEY`), flags (`--set section.key=value`, and the roles' own such as `--listen`).\n\
         Unknown keys are refused, and all mistakes are reported at once. `granary config` prints what is in effect.\n\n\
         *bytes* are a number, or text such as `\"64MiB\"` or `\"1GB\"`; a *time* is text such as `\"300ms\"` or `\"1m 30s\"`; a *list\n\
         of text* is an array, or text with commas (always so in the environment); a *secret* is a reference, `\"env:NAME\"` or\n\
         `\"file:/path\"`, never the secret itself.\n",
    );
    for keys in KEYS.chunk_by(|one, next| one.section == next.section) {
        append(
            &mut text,
            format_args!("\n## [{}]\n\n| key | kind | default | |\n|---|---|---|---|\n", keys[0].section),
        );
        for key in keys {
            append(&mut text, format_args!("{}\n", row(key, &defaults)));
        }
    }
    let example = &KEYS[KEYS.len() - 1];
    append(
        &mut text,
        format_args!("\nThe variable of `{}`, for example, is `{}`.\n", example.path(), example.variable()),
    );
    text
}

fn row(key: &Key, defaults: &Config) -> String {
    let default = (key.show)(defaults).map_or_else(|| "not set".to_owned(), |value| format!("`{}`", inline(&value)));
    format!("| `{}` | {} | {default} | {} |", key.name, key.kind, key.help)
}

fn inline(value: &Value) -> String {
    value.to_string()
}

fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::super::{Sources, load};
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        let mut config = Config::default();
        config.cluster.seeds = vec!["a:1".to_owned(), "b:2".to_owned()];
        config.object_store.url = Some("s3://bucket/x".to_owned());
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(print(&config).as_bytes()).expect("written");
        let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
        assert_eq!(load(&sources), Ok(config));
    }

    #[test]
    fn the_reference_in_the_documentation_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations/config.md");
        let written = std::fs::read_to_string(path).expect("docs/operations/config.md exists");
        assert!(written == reference(), "refresh it: cargo run -- config --reference > docs/operations/config.md");
    }
}
