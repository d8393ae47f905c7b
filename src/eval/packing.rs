//! Batches of the protocol: pairs of a point and an attempt.
//!
//! An attack on nine targets makes nine attempts on a point. A batch holds first one pair of every robust
//! point, those with the fewest attempts in front, then, when too few points are left for a whole batch, the
//! following attempts of the same points.

use super::protocol::Progress;

/// An attempt of an attack on a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The point's place in the range that is evaluated.
    pub point: usize,
    /// The attempt's number, counted from 0.
    pub attempt: usize,
}

/// The pairs that come next, at most `batch` (at least 1), with `attempts` attempts on each point in all.
pub fn next_batch(progress: &Progress, attempts: usize, batch: usize) -> Vec<Pair> {
    let tried = |point: usize| progress.tried[point];
    let mut points: Vec<usize> =
        progress.outcomes.robust().filter(|point| tried(*point) < attempts).collect();
    points.sort_by_key(|point| tried(*point));
    let pair = |point: &usize, further: usize| Pair { point: *point, attempt: tried(*point) + further };
    let round = |further: usize| points.iter().map(move |point| pair(point, further));
    (0..attempts).flat_map(round).filter(|pair| pair.attempt < attempts).take(batch.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::outcome::PointOutcomes;
    use super::*;

    fn progress(outcomes: &[Option<usize>], tried: &[usize]) -> Progress {
        Progress { outcomes: PointOutcomes(outcomes.to_vec()), tried: tried.to_vec(), ..Progress::default() }
    }

    #[test]
    fn batches_are_filled_with_points_first_and_further_attempts_then() {
        let next = |progress: &Progress, attempts, batch| {
            let pairs = next_batch(progress, attempts, batch);
            pairs.iter().map(|pair| (pair.point, pair.attempt)).collect::<Vec<_>>()
        };
        let fresh = progress(&[None, Some(0), None, None], &[0; 4]);
        assert_eq!(next(&fresh, 9, 2), [(0, 0), (2, 0)]);
        assert_eq!(next(&fresh, 9, 3), [(0, 0), (2, 0), (3, 0)]);
        assert_eq!(next(&fresh, 9, 5), [(0, 0), (2, 0), (3, 0), (0, 1), (2, 1)]);
        assert_eq!(next(&fresh, 2, 100).len(), 6);
        assert_eq!(next(&fresh, 1, 100), [(0, 0), (2, 0), (3, 0)]);
        // Those with the fewest attempts come first, and a point's attempts stay in order.
        let later = progress(&[None, Some(0), None, None], &[2, 0, 1, 3]);
        assert_eq!(next(&later, 3, 4), [(2, 1), (0, 2), (2, 2)]);
        assert_eq!(next(&progress(&[Some(1)], &[0]), 9, 4), []);
    }
}
