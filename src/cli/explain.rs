//! `tollgate explain`
use super::Output;
/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {}
/// x
pub fn run(_args: &Args, _output: Output) -> u8 {
    0
}
