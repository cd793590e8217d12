//! From the command line to a configuration, and `granary config`.

use anyhow::anyhow;

use super::args::{Command, ConfigArgs, Global, OfflineCommand, SizeArgs};
use crate::config::{self, Config, Mistakes, Sources};
use crate::output::Output;

/// The configuration in effect for `command`.
///
/// # Errors
/// Every mistake at once.
pub(super) fn load(global: &Global, command: &Command) -> Result<Config, Mistakes> {
    let mut sources = Sources { file: global.config.clone(), environment: environment(), ..Sources::default() };
    let mut malformed = Vec::new();
    for set in &global.set {
        match set.split_once('=') {
            Some((path, value)) => sources.flag("--set", path, Some(value)),
            None => malformed.push(format!("--set: {set:?} is not section.key=value")),
        }
    }
    role_flags(command, &mut sources);
    match config::load(&sources) {
        Ok(config) if malformed.is_empty() => Ok(config),
        Ok(_) => Err(Mistakes(malformed)),
        Err(Mistakes(mistakes)) => Err(Mistakes(malformed.into_iter().chain(mistakes).collect())),
    }
}

/// The environment; what is not UTF-8 is none of ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn role_flags(command: &Command, sources: &mut Sources) {
    match command {
        Command::Demo(args) => size_flags(&args.size, sources),
        Command::Dev(args) => {
            size_flags(&args.size, sources);
            sources.flag("--data-dir", "node.data_dir", args.data_dir.as_ref().map(|dir| dir.display()));
            sources.flag("--listen", "router.listen", args.listen.as_ref());
        }
        Command::Node(args) => {
            sources.flag("--data-dir", "node.data_dir", args.data_dir.as_ref().map(|dir| dir.display()));
            sources.flag("--listen", "node.listen", args.listen.as_ref());
            sources.flag("--advertise", "cluster.advertise", args.advertise.as_ref());
            sources.flag("--shards", "cluster.shards", args.shards);
            sources.flag("--seeds", "cluster.seeds", args.seeds.seeds.as_ref());
            sources.flag("--metrics", "metrics.listen", args.metrics.metrics.as_ref());
        }
        Command::Router(args) => {
            sources.flag("--listen", "router.listen", args.listen.as_ref());
            sources.flag("--seeds", "cluster.seeds", args.seeds.seeds.as_ref());
        }
        Command::Query(args) => {
            sources.flag("--listen", "query.listen", args.listen.as_ref());
            sources.flag("--seeds", "cluster.seeds", args.seeds.seeds.as_ref());
            sources.flag("--object-store", "object_store.url", args.objects.object_store.as_ref());
            sources.flag("--metrics", "metrics.listen", args.metrics.metrics.as_ref());
        }
        Command::Compactor(args) => {
            sources.flag("--seeds", "cluster.seeds", args.seeds.seeds.as_ref());
            sources.flag("--object-store", "object_store.url", args.objects.object_store.as_ref());
            sources.flag("--metrics", "metrics.listen", args.metrics.metrics.as_ref());
        }
        Command::Offline(OfflineCommand::GiveUp(args)) => {
            sources.flag("--data-dir", "node.data_dir", args.data_dir.as_ref().map(|dir| dir.display()));
            sources.flag("--object-store", "object_store.url", args.objects.object_store.as_ref());
        }
        _ => {}
    }
}

fn size_flags(args: &SizeArgs, sources: &mut Sources) {
    sources.flag("--shards", "cluster.shards", args.shards);
}

/// `granary config`.
pub(super) fn show(args: &ConfigArgs, config: &Config, output: Output) -> anyhow::Result<()> {
    // `--print` is the default; the flag is for those who like to say what they want.
    let _ = args.print;
    if args.reference {
        return output.line(&config::reference());
    }
    let printed = config::print(config);
    if output.is_json() {
        let table: serde_json::Value = toml::from_str(&printed).map_err(|error| anyhow!("print as JSON: {error}"))?;
        return output.line(&table.to_string());
    }
    output.line(&printed)
}
