//! One matrix product for all phases: `target += left * right`, sixteen columns at a time.
//!
//! Every operand is read where the recurrence left it, so nothing but the weights is ever packed:
//! `right` and `target` come as panels of sixteen columns, `left` with any two strides. Each
//! element of the target is one chain of multiply-adds in the order of the depth, whatever the
//! tile that computes it, and then an addition of what was there.
#![expect(unsafe_code, reason = "the inner loop indexes without bounds checks")]

use crate::simd::{Kernel, LANES, Simd};

/// Of the tallest tile.
const MOST_ROWS: usize = 8;
/// Rows that are reached from one address: a load adds none, one or two strides to it.
const ROWS_OF_ADDRESS: usize = 3;

/// Depths that one turn of the innermost loop takes.
const UNROLL: usize = 4;

/// `left * right`, summed over `segments` runs of `depth` each: a depth that is not evenly
/// spaced in memory, such as the steps of a batch, is cut into segments that are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    pub(crate) segments: usize,
    pub(crate) depth: usize,
}

impl Product<'_> {
    /// Whether both operands have all depths of this row, panel and segment.
    fn reaches(&self, (row, panel): (usize, usize), segment: usize) -> bool {
        let Self { left, right, depth, .. } = self;
        let first = row * left.row + segment * left.segment;
        let panel = panel * right.panel + segment * right.segment;
        first + (depth - 1) * left.step < left.values.len()
            && panel + depth * LANES <= right.values.len()
    }
}

/// Element (row, segment, k) lies at `row * self.row + segment * self.segment + k * self.step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) segment: usize,
    pub(crate) step: usize,
}

/// Row (panel, segment, k) lies at `panel * self.panel + segment * self.segment + k * 16`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) panel: usize,
    pub(crate) segment: usize,
}

/// Row (panel, row) lies at `panel * self.panel + row * self.row`.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) panel: usize,
    pub(crate) row: usize,
    pub(crate) panels: usize,
    pub(crate) rows: usize,
}

/// What is added to the products.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// The target's values, last: a long sum that comes in parts then loses less to rounding.
    Target,
    Zero,
    /// First, one row per panel, the same for all rows of the target.
    Bias(&'a [f32]),
}

/// `target = start + product + product + ...`.
#[derive(Debug)]
pub(crate) struct Multiply<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) start: Start<'a>,
    pub(crate) products: &'a [Product<'a>],
}

impl Multiply<'_> {
    /// The bounds that `tile` relies on.
    fn check(&self) {
        let Target { panels, rows, .. } = self.target;
        assert!(panels > 0 && rows > 0, "a target has rows");
        let last = (panels - 1) * self.target.panel + (rows - 1) * self.target.row;
        assert!(last + LANES <= self.target.values.len(), "the target holds its rows");
        if let Start::Bias(bias) = self.start {
            assert!(panels * LANES <= bias.len(), "every panel has a bias");
        }
        for Product { left, right, segments, depth } in self.products {
            assert!(*segments > 0 && *depth > 0, "a product has a depth");
            let last = (rows - 1) * left.row + (segments - 1) * left.segment;
            assert!(last + (depth - 1) * left.step < left.values.len(), "left holds its rows");
            let last = (panels - 1) * right.panel + (segments - 1) * right.segment;
            assert!(last + depth * LANES <= right.values.len(), "right holds its panels");
        }
    }

    /// Computes `M` rows from `row` on of `N` panels from `panel` on.
    ///
    /// # Safety
    /// `check` has passed, and the rows and panels lie within the target.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        simd: S,
        row: usize,
        panel: usize,
    ) {
        let corner = panel * self.target.panel + row * self.target.row;
        let place = |m: usize, n: usize| corner + n * self.target.panel + m * self.target.row;
        // Long sums leave the caches between two passes, and are needed only at the end of this one.
        for m in 0..M {
            for n in 0..N {
                simd.prefetch(self.target.values.as_ptr().wrapping_add(place(m, n)));
            }
        }
        let mut sums = [[simd.splat(0.0); N]; M];
        if let Start::Bias(bias) = self.start {
            for sums in &mut sums {
                for (n, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's promise; `check` has measured the bias.
                    *sum = unsafe { load(simd, bias, (panel + n) * LANES) };
                }
            }
        }
        for product in self.products {
            // SAFETY: the caller's promise.
            unsafe { accumulate(simd, product, (row, panel), &mut sums) };
        }
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                let at = place(m, n);
                let sum = match self.start {
                    // SAFETY: the caller's promise; `check` has measured the target.
                    Start::Target => simd.add(*sum, unsafe { load(simd, self.target.values, at) }),
                    Start::Zero | Start::Bias(_) => *sum,
                };
                // SAFETY: the caller's promise; `check` has measured the target.
                let to = unsafe { &mut *self.target.values.as_mut_ptr().add(at).cast() };
                simd.store(to, sum);
            }
        }
    }

    /// The rows of one panel in even blocks, so that no block is left with a row or two whose
    /// few accumulators could not hide the latency of their multiply-adds.
    ///
    /// # Safety
    /// As `tile`.
    #[inline(always)]
    unsafe fn panel<S: Simd>(&mut self, simd: S, panel: usize) {
        let rows = self.target.rows;
        let blocks = rows.div_ceil(S::ROWS);
        let (each, longer) = (rows / blocks, rows % blocks);
        let mut row = 0;
        for block in 0..blocks {
            let count = each + usize::from(block < longer);
            // SAFETY: the blocks partition the rows.
            unsafe {
                match count {
                    1 => self.tile::<S, 1, 1>(simd, row, panel),
                    2 => self.tile::<S, 2, 1>(simd, row, panel),
                    3 => self.tile::<S, 3, 1>(simd, row, panel),
                    4 => self.tile::<S, 4, 1>(simd, row, panel),
                    5 => self.tile::<S, 5, 1>(simd, row, panel),
                    6 => self.tile::<S, 6, 1>(simd, row, panel),
                    7 => self.tile::<S, 7, 1>(simd, row, panel),
                    _ => self.tile::<S, 8, 1>(simd, row, panel),
                }
            }
            row += count;
        }
    }
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        const { assert!(S::ROWS <= MOST_ROWS, "`panel` has no taller tiles") };
        self.check();
        let panels = self.target.panels;
        // SAFETY: `check` has passed; each call stays within the rows and panels it measured.
        unsafe {
            match self.target.rows {
                // One or two rows: panels side by side are the independent chains.
                1 if panels.is_multiple_of(4) => {
                    for four in 0..panels / 4 {
                        self.tile::<S, 1, 4>(simd, 0, four * 4);
                    }
                }
                2 if panels.is_multiple_of(2) => {
                    for two in 0..panels / 2 {
                        self.tile::<S, 2, 2>(simd, 0, two * 2);
                    }
                }
                _ => {
                    for panel in 0..panels {
                        self.panel(simd, panel);
                    }
                }
            }
        }
    }
}

/// # Safety
/// `at + 16` is at most the length of `values`.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, values: &[f32], at: usize) -> S::Vector {
    debug_assert!(at + LANES <= values.len(), "{at} of {}", values.len());
    // SAFETY: the caller's promise.
    simd.load(unsafe { &*values.as_ptr().add(at).cast() })
}

/// # Safety
/// `Multiply::check` has passed, and the rows and panels of `sums` from (row, panel) on lie within
/// the target.
#[inline(always)]
unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
    simd: S,
    product: &Product<'_>,
    corner: (usize, usize),
    sums: &mut [[S::Vector; N]; M],
) {
    // A step that the compiler knows is an offset in the instruction, not an addition of its own.
    // SAFETY: the caller's promise.
    unsafe {
        match product.left.step {
            1 => accumulate_by(simd, product, 1, corner, sums),
            step => accumulate_by(simd, product, step, corner, sums),
        }
    }
}

/// # Safety
/// As `accumulate`; `step` is that of the left operand.
#[inline(always)]
unsafe fn accumulate_by<S: Simd, const M: usize, const N: usize>(
    simd: S,
    product: &Product<'_>,
    step: usize,
    (row, panel): (usize, usize),
    sums: &mut [[S::Vector; N]; M],
) {
    let Product { left, right, segments, depth } = product;
    let strides = (left.row, right.panel);
    // The panel after these comes while they are computed: each tile fetches its share of it, so
    // that `UNROLL` tiles or more fetch it all but for the rest of the depth.
    let share = row.div_ceil(S::ROWS) * (depth / UNROLL);
    for segment in 0..*segments {
        debug_assert!(product.reaches((row + M - 1, panel + N - 1), segment));
        let left = left.values.as_ptr().wrapping_add(row * left.row + segment * left.segment);
        let panels = right.values.as_ptr().wrapping_add(segment * right.segment);
        let mut at = Cursor::new(left, panels.wrapping_add(panel * right.panel), strides);
        let mut ahead = panels.wrapping_add((panel + N) * right.panel + share.min(*depth) * LANES);
        for _ in 0..depth / UNROLL {
            simd.prefetch(ahead);
            ahead = ahead.wrapping_add(LANES);
            for _ in 0..UNROLL {
                // SAFETY: `check` has measured both operands for all rows, panels and depths.
                unsafe { at.multiply_add(simd, sums) };
                at.advance(step);
            }
        }
        for _ in 0..depth % UNROLL {
            // SAFETY: as above.
            unsafe { at.multiply_add(simd, sums) };
            at.advance(step);
        }
    }
}

/// Where a tile reads its operands at one depth.
struct Cursor {
    /// Of every third row: the two rows after each are addresses that a load computes by itself. Of
    /// what the core decodes, half is another thread's where two share it, and a loop that does more
    /// than load and multiply then waits for that. What a tile does not need is compiled away.
    left: [*const f32; MOST_ROWS.div_ceil(ROWS_OF_ADDRESS)],
    right: *const f32,
    /// From a row to the next, from a panel to the next.
    strides: (usize, usize),
}

impl Cursor {
    #[inline(always)]
    fn new(left: *const f32, right: *const f32, strides: (usize, usize)) -> Self {
        let mut found = Self { left: [left; _], right, strides };
        for (index, at) in found.left.iter_mut().enumerate() {
            *at = at.wrapping_add(ROWS_OF_ADDRESS * index * strides.0);
        }
        found
    }

    #[inline(always)]
    fn advance(&mut self, step: usize) {
        for at in &mut self.left {
            *at = at.wrapping_add(step);
        }
        self.right = self.right.wrapping_add(LANES);
    }

    /// # Safety
    /// `M` rows and `N` panels lie within the operands.
    #[inline(always)]
    unsafe fn multiply_add<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        sums: &mut [[S::Vector; N]; M],
    ) {
        let (row, panel) = self.strides;
        let mut columns = [simd.splat(0.0); N];
        for (n, column) in columns.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *column = simd.load(unsafe { &*self.right.add(n * panel).cast() });
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let left = unsafe { self.left[m / ROWS_OF_ADDRESS].add(m % ROWS_OF_ADDRESS * row) };
            // SAFETY: as above.
            let factor = simd.splat(unsafe { *left });
            for n in 0..N {
                sums[n] = simd.mul_add(factor, columns[n], sums[n]);
            }
        }
    }
}
