//! The command line: parses it, loads the configuration and runs the command. Each command has its own file.

mod args;
mod assignment;
mod batch_get;
mod bench;
mod consistency;
mod delete;
mod feature;
mod feature_group;
mod get;
mod hex;
mod join;
mod offline;
mod put;
mod record;
mod settings;
mod sql;
mod status;
mod ttl;

use std::process::ExitCode;

pub(crate) use args::OutputFormat;
use args::{Cli, Command, Global};
use clap::Parser;
use granary_platform::Platform;

use crate::client::Client;
use crate::config::Config;
use crate::output::Output;
use crate::{demo, failure, roles, telemetry};

/// What every client command needs.
struct Context {
    client: Client,
    output: Output,
}

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    // Usage errors end here with exit code 2, help and version with 0.
    let cli = Cli::parse();
    let json = cli.global.output == OutputFormat::Json;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "{}", failure::render(&error, json));
            failure::exit(&error)
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let config = settings::load(&cli.global, &cli.command)?;
    // Progress bars and answers are not to be torn by information; what is asked for explicitly is given.
    let quiet = !serves(&cli.command) && config.log.filter == Config::default().log.filter;
    let filter = if quiet { "warn" } else { config.log.filter.as_str() };
    telemetry::init(filter, config.log.format)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(cli, config))
}

/// Whether the command runs until it is told to stop.
fn serves(command: &Command) -> bool {
    matches!(
        command,
        Command::Dev(_) | Command::Node(_) | Command::Router(_) | Command::Compactor(_) | Command::Query(_)
    )
}

async fn run(cli: Cli, config: Config) -> anyhow::Result<()> {
    let platform = Platform::system();
    if serves(&cli.command) || matches!(cli.command, Command::Bench(_)) {
        roles::ports::listen_for_signals(&platform)?;
    }
    let Cli { global, command } = cli;
    match command {
        Command::Demo(args) => Box::pin(run_demo(args, config, platform, Output::new(global.output))).await,
        Command::Dev(args) => Box::pin(roles::dev::serve_until_stopped(config, args.size.nodes, platform)).await,
        Command::Node(_) => Box::pin(roles::node(config, platform)).await,
        Command::Router(_) => Box::pin(roles::router(config, platform)).await,
        Command::Compactor(_) => Box::pin(roles::compactor(config, platform)).await,
        Command::Query(_) => Box::pin(roles::query(config, platform)).await,
        Command::Bench(args) => Box::pin(bench::run(*args, platform, &global)).await,
        Command::Config(args) => settings::show(&args, &config, Output::new(global.output)),
        Command::Offline(command) => Box::pin(offline::run(command, &config, &platform, &global)).await,
        Command::Status(args) => status::run(&args, &global).await,
        command => {
            let context =
                Context { client: Client::new(&global.endpoint, global.timeout)?, output: Output::new(global.output) };
            let answered = tokio::time::timeout(global.timeout, client_command(&context, command, &global)).await;
            answered.unwrap_or_else(|_| {
                let message = format!("no answer from {} within {:?}", global.endpoint, global.timeout);
                Err(granary_types::Error::new(granary_types::ErrorKind::Unknown, message).into())
            })
        }
    }
}

async fn client_command(context: &Context, command: Command, global: &Global) -> anyhow::Result<()> {
    match command {
        Command::FeatureGroup(command) => feature_group::run(context, command).await,
        Command::Put(args) => put::run(context, args).await,
        Command::Get(args) => get::run(context, args).await,
        Command::BatchGet(args) => batch_get::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Sql(args) => sql::run(context, args, global.timeout).await,
        Command::Join(args) => join::run(context, args).await,
        _ => unreachable!("commands that serve were run above"),
    }
}

async fn run_demo(args: args::DemoArgs, config: Config, platform: Platform, output: Output) -> anyhow::Result<()> {
    let data = demo::find_data(args.data.as_deref())?;
    let summary = match args.against {
        Some(endpoint) => demo::run(&endpoint, &data, platform).await?,
        None => {
            let cluster = roles::dev::start_for_demo(config, args.size.nodes, args.data_dir, platform.clone()).await?;
            let summary = demo::run(&cluster.endpoint(), &data, platform).await;
            cluster.stop().await;
            summary?
        }
    };
    output.answer(|| summary.to_string(), || summary.to_json())?;
    summary.verdict()
}
