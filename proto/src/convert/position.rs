//! Where ranks are.

use std::time::Duration;

use common::position::{Operation, Phase, Position};

use crate::convert::Error;
use crate::v1;
use crate::v1::rank_position;

/// Communicators of one rank.
const MAX_OPERATIONS: usize = 16;

/// An operation's name is shown.
const MAX_NAME: usize = 120;

impl TryFrom<v1::RankPosition> for Position {
    type Error = Error;

    fn try_from(position: v1::RankPosition) -> Result<Self, Error> {
        let phase = Phase::named(&position.phase).ok_or_else(|| {
            Error::value("rank_position.phase", &position.phase, "a phase that we know")
        })?;
        let operations = position.operations.into_iter().take(MAX_OPERATIONS);
        Ok(Self {
            step: position.step,
            phase,
            beat: position.beat,
            slow_step: Duration::from_micros(position.slow_step_us),
            slow_save: Duration::from_micros(position.slow_save_us),
            operations: operations
                .map(|operation| Operation {
                    channel: operation.channel,
                    sequence: operation.sequence,
                    name: operation.name.chars().take(MAX_NAME).collect(),
                    is_inside: operation.is_inside,
                })
                .collect(),
        })
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

impl From<Position> for v1::RankPosition {
    fn from(position: Position) -> Self {
        Self {
            step: position.step,
            phase: position.phase.as_str().to_owned(),
            beat: position.beat,
            slow_step_us: micros(position.slow_step),
            slow_save_us: micros(position.slow_save),
            operations: position
                .operations
                .into_iter()
                .map(|operation| rank_position::Operation {
                    channel: operation.channel,
                    sequence: operation.sequence,
                    name: operation.name,
                    is_inside: operation.is_inside,
                })
                .collect(),
        }
    }
}
