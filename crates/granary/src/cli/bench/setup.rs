//! From flags to a plan: the classes of operations, when they are due, what is measured.

use std::time::Duration;

use granary_bench::schedule::Phase;
use granary_bench::store::{Role, Settings};
use granary_bench::workload::{Draws, Kind, Workload};
use granary_bench::{Class, Plan, Window, mix};
use granary_types::Error;

use super::args::BenchArgs;

/// Records in one write of a storm: bulk writers send batches.
const STORM_BATCH: u64 = 50;
/// The burst after the storm, as a multiple of it.
const BURST: f64 = 5.0;
/// Of the events of W11, one in so many is waited for offline; the others online.
const OFFLINE_ONE_IN: f64 = 10.0;
/// How long an event may take to its offline table: well over the compactor's age of files by default.
pub(super) const OFFLINE_DEADLINE: Duration = Duration::from_secs(120);

/// All that a run is made of.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) workload: Workload,
    pub(super) scale: f64,
    /// Operations a second by schedule, or operations under way.
    pub(super) drive: Drive,
    pub(super) plan: Plan,
    pub(super) draws: Draws,
    pub(super) settings: Settings,
}

/// What makes operations begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Drive {
    /// A schedule of so many a second.
    Open(f64),
    /// The end of others, of which so many are under way.
    Closed(usize),
}

impl Setup {
    /// What `args` ask for.
    ///
    /// # Errors
    /// `Invalid` for flags that do not go together.
    pub(super) fn new(args: &BenchArgs) -> Result<Self, Error> {
        let workload = args.workload.clone().ok_or_else(|| Error::invalid("which workload?"))?;
        if args.duration.is_zero() {
            return Err(Error::invalid("--duration: nothing can be measured in no time"));
        }
        let scale = args.scale.unwrap_or(workload.default_scale);
        let workload = adapted(workload, args).scaled(scale);
        let drive = match args.in_flight {
            Some(_) if workload.kind != Kind::Mixed => {
                let message = format!("--in-flight: {} goes by a schedule, give --rate", workload.id);
                return Err(Error::invalid(message));
            }
            Some(in_flight) => Drive::Closed(in_flight as usize),
            None => Drive::Open(args.rate.unwrap_or(workload.default_rate)),
        };
        // Each process draws its own schedule and keys; which keys are hot is the same for all.
        let own_seed = mix(args.seed, u64::from(args.child.map_or(0, |child| child.index)));
        let (classes, roles) = classes(&workload, drive, args).into_iter().unzip();
        let plan = Plan {
            classes,
            windows: windows(workload.kind, args),
            gaps: args.gaps.gaps(),
            seed: own_seed,
            in_flight_max: args.in_flight_max as usize,
            backlog_max: args.in_flight_max as usize,
        };
        let draws = Draws::new(&workload, args.seed, own_seed);
        let settings = Settings {
            prefix: args.prefix.clone(),
            consistency: args.consistency.to_wire(),
            shape: args.shape.shape(),
            seed: args.seed,
            roles,
            offline_deadline: OFFLINE_DEADLINE,
        };
        Ok(Self { workload, scale, drive, plan, draws, settings })
    }
}

/// The workload with what the flags change about it.
pub(super) fn adapted(mut workload: Workload, args: &BenchArgs) -> Workload {
    workload.skew = args.keys.unwrap_or(workload.skew);
    workload.bound = args.bound.unwrap_or(workload.bound);
    workload.read_share = args.read_share.unwrap_or(workload.read_share);
    match args.records {
        Some(records) => workload.with_records(records),
        None => workload,
    }
}

fn windows(kind: Kind, args: &BenchArgs) -> Vec<Window> {
    let names: &[&str] = if kind == Kind::Storm { &["quiet", "storm", "burst"] } else { &["all"] };
    let lasts = args.duration / u32::try_from(names.len()).unwrap_or(1);
    let mut from = args.warmup;
    let window = |&name: &&str| {
        let window = Window { name: name.to_owned(), from, until: from + lasts };
        from += lasts;
        window
    };
    names.iter().map(window).collect()
}

fn classes(workload: &Workload, drive: Drive, args: &BenchArgs) -> Vec<(Class, Role)> {
    let (rate, whole) = (if let Drive::Open(rate) = drive { rate } else { 0.0 }, args.warmup + args.duration);
    let class = |name: &str, share: f64| Class {
        name: name.to_owned(),
        bound: workload.bound,
        deadline: args.deadline,
        phases: vec![Phase { lasts: whole, per_second: rate * share }],
        share,
    };
    match workload.kind {
        Kind::Mixed => {
            let (reads, writes) = (workload.read_share, 1.0 - workload.read_share);
            let both = [(class("read", reads), Role::Read), (class("write", writes), Role::Write(1))];
            both.into_iter().filter(|(class, _)| class.share > 0.0).collect()
        }
        Kind::Storm => {
            let (third, storm) = (args.duration / 3, args.write_rate / STORM_BATCH as f64);
            let phase = |lasts, per_second| Phase { lasts, per_second };
            let phases = vec![phase(args.warmup + third, 0.0), phase(third, storm), phase(third, storm * BURST)];
            let write = Class { phases, ..class("write", 0.0) };
            vec![(class("read", 1.0), Role::Read), (write, Role::Write(STORM_BATCH))]
        }
        Kind::Freshness => {
            let offline = Class {
                deadline: OFFLINE_DEADLINE,
                bound: Duration::from_secs(60),
                ..class("offline", 1.0 / OFFLINE_ONE_IN)
            };
            vec![(class("online", 1.0 - 1.0 / OFFLINE_ONE_IN), Role::SeenOnline), (offline, Role::SeenOffline)]
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::args::{Cli, Command};
    use super::*;

    fn setup(arguments: &[&str]) -> Result<Setup, Error> {
        let cli = Cli::try_parse_from(["granary", "bench"].iter().chain(arguments)).expect("well-formed");
        let Command::Bench(args) = cli.command else { unreachable!("bench") };
        Setup::new(&args)
    }

    fn due(setup: &Setup, class: usize, from: u64, until: u64) -> usize {
        let times = Duration::from_secs(from)..Duration::from_secs(until);
        setup.plan.arrivals().filter(|arrival| arrival.class == class && times.contains(&arrival.at)).count()
    }

    #[test]
    fn the_rate_is_shared_by_reads_and_writes() {
        let setup = setup(&["W1", "--rate", "1000", "--gaps", "even", "--duration", "10s"]).expect("valid");
        assert_eq!(setup.drive, Drive::Open(1_000.0));
        assert_eq!((due(&setup, 0, 5, 15), due(&setup, 1, 5, 15)), (9_500, 500));
        assert_eq!(setup.plan.windows[0].from, Duration::from_secs(5));
        assert_eq!(setup.workload.groups[0].entities, 10_000);
    }

    #[test]
    fn a_storm_comes_after_quiet_and_a_burst_after_it() {
        let flags = ["W7", "--rate", "100", "--gaps", "even", "--duration", "30s", "--warmup", "2s"];
        let setup = setup(&flags).expect("valid");
        let writes: Vec<_> = [0, 12, 22].map(|from| due(&setup, 1, from, from + 10)).into();
        assert_eq!(writes, [0, 200, 1_000], "batches of 50");
        let names: Vec<_> = setup.plan.windows.iter().map(|window| window.name.as_str()).collect();
        assert_eq!(names, ["quiet", "storm", "burst"]);
        assert_eq!(setup.plan.ends(), Duration::from_secs(32));
    }

    #[test]
    fn flags_change_the_workload() {
        let flags =
            ["w4", "--in-flight", "8", "--read-share", "0.5", "--records", "7", "--bound", "1s", "--scale", "1"];
        let setup = setup(&flags).expect("valid");
        assert_eq!(setup.drive, Drive::Closed(8));
        assert_eq!(setup.plan.classes.len(), 2);
        assert_eq!((setup.workload.asks[0].records, setup.workload.groups[0].entities), (7, 1_000_000));
        assert_eq!(setup.plan.classes[0].bound, Duration::from_secs(1));
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (flags, named) in [
            (vec!["W7", "--in-flight", "8"], "--in-flight"),
            (vec!["W11", "--in-flight", "8"], "--in-flight"),
            (vec!["W1", "--duration", "0s"], "--duration"),
        ] {
            let error = setup(&flags).expect_err("refused");
            assert!(error.message.starts_with(named), "{error}");
        }
    }

    #[test]
    fn processes_have_schedules_of_their_own() {
        let child = |child: &str| setup(&["W1", "--child", child]).expect("valid");
        let first = |setup: Setup| setup.plan.arrivals().take(5).collect::<Vec<_>>();
        assert_ne!(first(child("0@1")), first(child("1@1")));
        assert_eq!(first(child("0@1")), first(setup(&["W1"]).expect("valid")));
    }
}
