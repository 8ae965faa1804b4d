//! `rsctl completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use common::exit::ExitCode;

use crate::commands::Outcome;
use crate::render;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl completions bash > /etc/bash_completion.d/rsctl
  rsctl completions zsh > \"${fpath[1]}/_rsctl\"
  rsctl completions fish > ~/.config/fish/completions/rsctl.fish")]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn execute(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "rsctl", &mut script);
    render::raw(&script)?;
    Ok(ExitCode::Done)
}
