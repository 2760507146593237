//! The tollgate binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::Cli;

/// Allocation is a good part of what a proxy does; glibc's costs 15 % more CPU per request, and gives less back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().filter_or("TOLLGATE_LOG", cli.log_filter()))
        .format_timestamp_millis()
        .init();
    // The engine traces whole request heads, credentials and all; no setting may turn that on.
    log::set_max_level(log::max_level().min(log::LevelFilter::Debug));
    cli.run()
}
