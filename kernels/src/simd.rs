//! Vectors of sixteen floats on whatever the CPU has. The loops above are written once, against
//! [`Simd`], and compiled once per instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Floats of a vector: one cache line.
pub(crate) const LANES: usize = 16;

/// 1.5 * 2^23: a float to which this is added has no fraction left, and holds its whole part in
/// the low bits, as two's complement.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// What the loops run on. Exists only for a CPU that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl InstructionSet {
    /// The fastest that this CPU has.
    pub fn best() -> Self {
        *Self::available().last().expect("portable code runs everywhere")
    }

    /// All that this CPU has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self(Kind::Portable(portable::Portable))];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(avx2::Avx2::detect().map(|set| Self(Kind::Avx2(set))));
            found.extend(avx512::Avx512::detect().map(|set| Self(Kind::Avx512(set))));
        }
        found
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
        }
    }

    /// Runs `program` on this set.
    pub(crate) fn dispatch<P: Program>(self, program: P) {
        match self.0 {
            Kind::Portable(set) => program.run(set),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(set) => program.run(set),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(set) => program.run(set),
        }
    }
}

/// The whole of a call: loops around kernels, compiled per instruction set.
pub(crate) trait Program {
    fn run<S: Simd>(self, simd: S);
}

/// An inner loop. `run` and all of ours that it calls must be `#[inline(always)]` and use no closure
/// on vectors: only what is inlined into [`Simd::launch`] is compiled with the instruction set's
/// features, and whether a closure is, the optimiser decides. What is not runs hundreds of times
/// slower; `examples/speed.rs` shows it.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}

/// Operations on vectors. A value of the type is the proof that the CPU has the instructions.
pub(crate) trait Simd: Copy {
    type Vector: Copy;
    /// Rows of a tile one vector wide whose accumulators stay in registers.
    const ROWS: usize;

    /// Runs the kernel with the instruction set enabled.
    fn launch<K: Kernel>(self, kernel: K);

    /// Asks for the cache line at this address, which need not be a valid one.
    fn prefetch(self, at: *const f32);
    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, from: &[f32; LANES]) -> Self::Vector;
    fn store(self, to: &mut [f32; LANES], value: Self::Vector);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c - a * b`.
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `value` within -`bound` and `bound`; NaN stays NaN.
    fn clamp(self, value: Self::Vector, bound: f32) -> Self::Vector;
    /// 2^n of `n + ROUND`, for whole n from -126 to 127. NaN gives any value.
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector;
}
