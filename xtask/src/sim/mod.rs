//! `cargo xtask sim`: whole nodes in a virtual network, on a release build.

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;

/// Builds the release program with the simulator in and lets that do it.
#[cfg(not(feature = "sim"))]
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    use crate::workspace;
    use std::process::Command;

    // What the command line holds is for the other program to judge.
    drop(args);
    let build =
        ["build", "--release", "--locked", "--package=xtask", "--features=xtask/sim", "--bins", "--quiet"];
    workspace::run(workspace::cargo().args(build))?;
    let built = workspace::target_dir()?.join("release").join(workspace::exe("xtask"));
    let status = Command::new(built).args(std::env::args_os().skip(1)).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "sim")]
pub(crate) use real::run;

#[cfg(feature = "sim")]
mod table;

#[cfg(feature = "sim")]
mod real {
    use std::time::{Duration, Instant};

    use anyhow::{Context, bail};
    use p2p_node::sim::{Options, Report, Scenario};

    use super::{Args, ExitCode, Result, table};

    pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
        let line = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let Some(what) = args.word() else {
            let names: Vec<&str> = Scenario::ALL.iter().map(|s| s.name()).collect();
            bail!("sim what? {} or table", names.join(", "));
        };
        if what == "table" {
            return table::run(args);
        }
        let scenario: Scenario = what.parse()?;
        let json = args.flag("--json");
        let seeds: u64 = args.parsed("--seeds", 1)?;
        let options = options(scenario, &mut args)?;
        args.finish()?;
        let mut met = true;
        for seed in options.sim.seed..options.sim.seed.saturating_add(seeds.max(1)) {
            let mut options = options.clone();
            options.sim.seed = seed;
            let begin = Instant::now();
            let mut report = scenario.run(&options);
            report.wall_s = begin.elapsed().as_secs_f64();
            println!("{}", serde_json::to_string(&report)?);
            met &= judge(&report, json, &line);
        }
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Says which bars are met, on standard error so that the lines of JSON stay alone.
    fn judge(report: &Report, json: bool, line: &str) -> bool {
        let bars = report.bars();
        for bar in bars.iter().filter(|bar| !json || !bar.is_met()) {
            let verdict = if bar.is_met() { "met" } else { "NOT MET" };
            eprintln!("  {:<24} {:>10.3}  <= {:<8} {verdict}", bar.name, bar.value, bar.limit);
        }
        let met = bars.iter().all(p2p_node::sim::Bar::is_met);
        if !met {
            eprintln!("  again: cargo xtask {} --seed {}", without_seeds(line), report.seed);
        }
        met
    }

    /// A command line without `--seed` and `--seeds`, in either way of writing them.
    fn without_seeds(line: &str) -> String {
        let (mut kept, mut words) = (Vec::new(), line.split(' '));
        while let Some(word) = words.next() {
            match word {
                "--seed" | "--seeds" => drop(words.next()),
                _ if word.starts_with("--seed=") || word.starts_with("--seeds=") => {}
                _ => kept.push(word),
            }
        }
        kept.join(" ")
    }

    fn options(scenario: Scenario, args: &mut Args) -> Result<Options> {
        let mut o = Options::of(scenario);
        o.nodes = args.parsed("--nodes", o.nodes)?;
        o.sim.seed = args.parsed("--seed", 1)?;
        o.messages = args.parsed("--messages", o.messages)?;
        o.warm_up = args.parsed("--warm-up", o.warm_up)?;
        o.size = args.parsed("--size", o.size)?;
        o.join_rate = args.parsed("--join-rate", o.join_rate)?;
        o.share = args.parsed("--share", o.share)?;
        o.machines |= args.flag("--machines");
        o.one_introducer &= !args.flag("--many-introducers");
        o.interval = millis(args, "--interval", o.interval)?;
        o.lasts = secs(args, "--lasts", o.lasts)?;
        o.slow_share = args.parsed("--slow-share", o.slow_share)?;
        o.slow_rate = args.parsed("--slow-rate", o.slow_rate)?;
        o.sim.loss = args.parsed("--loss", o.sim.loss)?;
        o.sim.jitter = millis(args, "--jitter", o.sim.jitter)?;
        o.sim.link_rate = args.parsed("--link-bandwidth", o.sim.link_rate)?;
        o.sim.node_rate = args.parsed("--bandwidth", o.sim.node_rate)?;
        o.sim.check = Duration::from_micros(args.parsed("--check", 0)?);
        o.sim.real_checks |= args.flag("--real-crypto");
        o.sim.threads = args.parsed("--threads", o.sim.threads)?;
        o.sim.peers.max_peers = args.parsed("--table", o.sim.peers.max_peers)?;
        if let Some(latency) = args.value("--latency")? {
            let (low, high) = latency.split_once('-').unwrap_or((&latency, &latency));
            let ms = |text: &str| {
                text.parse().map(Duration::from_millis).with_context(|| format!("--latency {latency}"))
            };
            o.sim.latency = (ms(low)?, ms(high)?);
        }
        Ok(o)
    }

    fn millis(args: &mut Args, name: &str, default: Duration) -> Result<Duration> {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        args.parsed(name, default).map(Duration::from_millis)
    }

    fn secs(args: &mut Args, name: &str, default: Duration) -> Result<Duration> {
        args.parsed(name, default.as_secs()).map(Duration::from_secs)
    }

    #[cfg(test)]
    mod tests {
        use super::without_seeds;

        #[test]
        fn a_run_is_replayed_with_all_its_options_but_the_seeds() {
            for line in [
                "sim churn --seeds 3 --seed 5 --nodes 300",
                "sim churn --nodes 300 --seed=5 --seeds=2",
                "sim churn --nodes 300",
            ] {
                assert_eq!(without_seeds(line), "sim churn --nodes 300");
            }
        }
    }
}
