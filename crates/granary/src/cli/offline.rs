//! `granary offline`: what an operator decides about the offline tables.

use anyhow::Context;
use granary_catalog::CatalogView;
use granary_compactor::{Lost, give_up, lost_history};
use granary_platform::Platform;
use granary_types::{Error, ErrorKind};
use serde_json::json;

use super::args::{GiveUpArgs, Global, OfflineCommand};
use super::status::first_catalog;
use crate::config::Config;
use crate::output::{self, Output};
use crate::roles;

pub(super) async fn run(
    command: OfflineCommand,
    config: &Config,
    platform: &Platform,
    global: &Global,
) -> anyhow::Result<()> {
    match command {
        OfflineCommand::GiveUp(args) => give_up_history(&args, config, platform, global).await,
    }
}

async fn give_up_history(
    args: &GiveUpArgs,
    config: &Config,
    platform: &Platform,
    global: &Global,
) -> anyhow::Result<()> {
    let seeds = if args.seeds.is_empty() { std::slice::from_ref(&global.endpoint) } else { &args.seeds };
    let catalog = first_catalog(seeds, global.timeout).await?;
    let catalog = CatalogView::from_wire(&catalog).context("read the catalog")?;
    let unknown = || Error::new(ErrorKind::NotFound, format!("feature group {:?} does not exist", args.group));
    let group = catalog.group(&args.group).ok_or_else(unknown)?;
    let warehouse = roles::warehouse(config, platform).await?;
    let lost = lost_history(platform, &catalog, &warehouse, group, global.timeout).await?;
    let given_up = args.yes && !lost.is_empty();
    if given_up {
        give_up(&warehouse, group, &lost).await?;
    }
    Output::new(global.output).answer(
        || text(&args.group, &lost, given_up),
        || {
            let range = |lost: &Lost| json!({"stream": lost.stream.to_string(), "after": lost.after, "until": lost.until});
            json!({"feature_group": args.group, "given_up": given_up, "lost": lost.iter().map(range).collect::<Vec<_>>()})
        },
    )
}

fn text(group: &str, lost: &[Lost], given_up: bool) -> String {
    if lost.is_empty() {
        return format!("{group}: the table holds everything that was acknowledged");
    }
    let row = |lost: &Lost| vec![lost.stream.to_string(), (lost.after + 1).to_string(), lost.until.to_string()];
    let rows: Vec<Vec<String>> = lost.iter().map(row).collect();
    let what = if given_up { "given up" } else { "missing; --yes gives it up" };
    format!("{group}: {what}\n\n{}", output::table(&["stream", "from event", "to event"], &rows))
}
