//! How trainers end.

use common::status::{FailureKind, TrainerEnd, TrainerFailure};

use crate::convert::Error;
use crate::v1;
use crate::v1::trainer_end::{Killed, Kind, Panicked};

impl TryFrom<v1::FailureKind> for FailureKind {
    type Error = Error;

    fn try_from(kind: v1::FailureKind) -> Result<Self, Error> {
        Ok(match kind {
            v1::FailureKind::Unspecified => {
                return Err(Error::Missing { field: "trainer_failure.kind" });
            }
            v1::FailureKind::Configuration => Self::Configuration,
            v1::FailureKind::Data => Self::Data,
            v1::FailureKind::NotFinite => Self::NotFinite,
            v1::FailureKind::Communication => Self::Communication,
            v1::FailureKind::Checkpoint => Self::Checkpoint,
            v1::FailureKind::OutOfMemory => Self::OutOfMemory,
            v1::FailureKind::Engine => Self::Engine,
            v1::FailureKind::Start => Self::Start,
            v1::FailureKind::CutOff => Self::CutOff,
            v1::FailureKind::Hang => Self::Hang,
        })
    }
}

impl From<FailureKind> for v1::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Configuration => Self::Configuration,
            FailureKind::Data => Self::Data,
            FailureKind::NotFinite => Self::NotFinite,
            FailureKind::Communication => Self::Communication,
            FailureKind::Checkpoint => Self::Checkpoint,
            FailureKind::OutOfMemory => Self::OutOfMemory,
            FailureKind::Engine => Self::Engine,
            FailureKind::Start => Self::Start,
            FailureKind::CutOff => Self::CutOff,
            FailureKind::Hang => Self::Hang,
        }
    }
}

impl TryFrom<v1::TrainerFailure> for TrainerFailure {
    type Error = Error;

    fn try_from(failure: v1::TrainerFailure) -> Result<Self, Error> {
        let kind = v1::FailureKind::try_from(failure.kind).map_err(|_| {
            Error::value("trainer_failure.kind", failure.kind, "a kind of failure that we know")
        })?;
        Ok(Self { kind: kind.try_into()?, step: failure.step, message: failure.message })
    }
}

impl From<TrainerFailure> for v1::TrainerFailure {
    fn from(failure: TrainerFailure) -> Self {
        Self {
            kind: v1::FailureKind::from(failure.kind).into(),
            step: failure.step,
            message: failure.message,
        }
    }
}

impl TryFrom<v1::TrainerEnd> for TrainerEnd {
    type Error = Error;

    fn try_from(end: v1::TrainerEnd) -> Result<Self, Error> {
        Ok(match end.kind.ok_or(Error::Missing { field: "trainer_end.kind" })? {
            Kind::Finished(_) => Self::Finished,
            Kind::Stopped(_) => Self::Stopped,
            Kind::Failed(failure) => Self::Failed { failure: failure.try_into()? },
            Kind::Panicked(Panicked { message, place }) => Self::Panicked { message, place },
            Kind::Killed(Killed { signal, core_dumped }) => Self::Killed { signal, core_dumped },
            Kind::Exited(code) => Self::Exited { code },
            Kind::Lost(_) => Self::Lost,
        })
    }
}

impl From<TrainerEnd> for v1::TrainerEnd {
    fn from(end: TrainerEnd) -> Self {
        let kind = match end {
            TrainerEnd::Finished => Kind::Finished(v1::Empty {}),
            TrainerEnd::Stopped => Kind::Stopped(v1::Empty {}),
            TrainerEnd::Failed { failure } => Kind::Failed(failure.into()),
            TrainerEnd::Panicked { message, place } => Kind::Panicked(Panicked { message, place }),
            TrainerEnd::Killed { signal, core_dumped } => {
                Kind::Killed(Killed { signal, core_dumped })
            }
            TrainerEnd::Exited { code } => Kind::Exited(code),
            TrainerEnd::Lost => Kind::Lost(v1::Empty {}),
        };
        Self { kind: Some(kind) }
    }
}
