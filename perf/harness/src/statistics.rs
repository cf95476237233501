//! What samples say: median, coefficient of variation, the Mann-Whitney test, a bootstrap interval.
//!
//! Both tests make no assumption about how a machine's noise is distributed. The Mann-Whitney test is exact where no two values
//! are equal and there are up to [`EXACT`] in each sample, and by the normal approximation with its correction for ties else.

use crate::random::Random;

/// Most values of a sample for the exact test.
pub const EXACT: usize = 30;

/// The middle value (the mean of the two middle ones). None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2.0)
}

/// Standard deviation over mean. None of fewer than two values, or a mean of 0.
pub fn variation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (values.len() > 1 && mean != 0.0).then(|| (squares / (n - 1.0)).sqrt() / mean.abs())
}

/// The two-sided Mann-Whitney test: the chance of ranks as unequal as these, or more, if both samples are of one distribution.
/// None of an empty sample.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    // Pairs in which a is the greater one; equal ones are half a pair.
    let mut u = 0.0_f64;
    for x in a {
        for y in b {
            u += match x.total_cmp(y) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    let ties = ties(a, b);
    let pairs = (a.len() * b.len()) as f64;
    let p = if ties == 0.0 && a.len() <= EXACT && b.len() <= EXACT {
        let counts = ways(a.len(), b.len());
        let all: f64 = counts.iter().sum();
        let extreme = u.min(pairs - u) as usize;
        2.0 * counts.iter().take(extreme + 1).sum::<f64>() / all
    } else {
        let n = (a.len() + b.len()) as f64;
        let variance = pairs / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)).max(1.0));
        if variance <= 0.0 {
            return Some(1.0);
        }
        let z = ((u - pairs / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
        2.0 * upper_tail(z)
    };
    Some(p.min(1.0))
}

/// Σ (t³ − t) over groups of equal values.
fn ties(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    all.chunk_by(|x, y| x == y).map(|group| (group.len() as f64).powi(3) - group.len() as f64).sum()
}

/// In how many orders of n and m values the first have u pairs won, for each u.
fn ways(n: usize, m: usize) -> Vec<f64> {
    // table[j]: the counts for i values of the first and j of the second; the greatest of all is of either sample.
    let mut table = vec![vec![1.0]; m + 1];
    for i in 1..=n {
        let mut next = vec![vec![1.0]];
        for j in 1..=m {
            let mut counts = vec![0.0; i * j + 1];
            // Of the first: it wins j pairs. Of the second: none.
            for (from, shift) in [(table.get(j), j), (next.get(j - 1), 0)] {
                for (u, ways) in from.into_iter().flatten().enumerate() {
                    if let Some(count) = counts.get_mut(u + shift) {
                        *count += ways;
                    }
                }
            }
            next.push(counts);
        }
        table = next;
    }
    table.pop().unwrap_or_default()
}

/// The chance of a normal value above z (Abramowitz and Stegun 26.2.17, error below 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_53, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum
}

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The 95 % interval of median(b) / median(a), by the percentile bootstrap with a fixed seed. None of fewer than two values in
/// either, or where a median is 0.
pub fn ratio_interval(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let mut random = Random::new(9971);
    let mut sample = |values: &[f64]| {
        let drawn: Vec<f64> = (0..values.len())
            .filter_map(|_| values.get(random.below(values.len())).copied())
            .collect();
        median(&drawn)
    };
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let (below, above) = (sample(a)?, sample(b)?);
        if below == 0.0 {
            return None;
        }
        ratios.push(above / below);
    }
    ratios.sort_by(f64::total_cmp);
    Some((*ratios.get(RESAMPLES / 40)?, *ratios.get(RESAMPLES - 1 - RESAMPLES / 40)?))
}

/// The greatest mean of a Poisson variable that shows `count` or fewer with a chance of at least 1 − `confidence`: with that confidence
/// the mean is not above it (the exact one-sided bound; 3.0 for nothing seen at 95 %).
pub fn poisson_upper(count: u64, confidence: f64) -> f64 {
    bisect(|mean| at_most(count, mean) < 1.0 - confidence, count)
}

/// The smallest mean that shows `count` or more with that chance; 0 for nothing seen.
pub fn poisson_lower(count: u64, confidence: f64) -> f64 {
    match count.checked_sub(1) {
        None => 0.0,
        Some(below) => bisect(|mean| 1.0 - at_most(below, mean) > 1.0 - confidence, count),
    }
}

/// The mean from which on `above` holds.
fn bisect(above: impl Fn(f64) -> bool, count: u64) -> f64 {
    let count = count as f64;
    let (mut low, mut high) = (0.0, count + 10.0 * (count + 1.0).sqrt() + 10.0);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        match above(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    high
}

/// The chance that a Poisson variable is at most `count`.
fn at_most(count: u64, mean: f64) -> f64 {
    // Past this the normal approximation (with the Wilson-Hilferty cube root) is off by less than 1e-5.
    if count > 100_000 {
        let shape = count as f64 + 1.0;
        let z = ((mean / shape).cbrt() - 1.0 + 1.0 / (9.0 * shape)) * 3.0 * shape.sqrt();
        return if z >= 0.0 { upper_tail(z) } else { 1.0 - upper_tail(-z) };
    }
    // Terms as logarithms: exp(-mean) alone would vanish.
    let (mut log_term, mut sum) = (-mean, 0.0);
    for k in 0..=count {
        if k > 0 {
            log_term += mean.ln() - (k as f64).ln();
        }
        sum += log_term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_test_gives_the_tables_values() {
        // All of one above all of the other: 2 / C(n + m, n).
        let low: Vec<f64> = (0..4).map(f64::from).collect();
        let high: Vec<f64> = (10..14).map(f64::from).collect();
        assert!((mann_whitney(&low, &high).unwrap() - 2.0 / 70.0).abs() < 1e-12);
        let (low, high) = (&low[..3], &high[..3]);
        assert!((mann_whitney(low, high).unwrap() - 0.1).abs() < 1e-12);
        // Wilcoxon's table: n = m = 5, U = 2 is 0.032 two-sided.
        let a = [1.0, 2.0, 3.0, 4.0, 7.0];
        let b = [5.0, 6.0, 8.0, 9.0, 10.0];
        let p = mann_whitney(&a, &b).unwrap();
        assert!((p - 8.0 / 252.0).abs() < 1e-12, "{p}");
        assert_eq!(mann_whitney(&[], &a), None);
    }

    #[test]
    fn equal_samples_are_no_evidence_and_ties_are_taken_for_what_they_are() {
        assert_eq!(mann_whitney(&[1.0; 8], &[1.0; 8]), Some(1.0));
        let p = mann_whitney(&[1.0, 1.0, 2.0, 2.0, 3.0], &[2.0, 2.0, 3.0, 3.0, 4.0]).unwrap();
        // scipy.stats.mannwhitneyu(…, method="asymptotic"): 0.1290.
        assert!((p - 0.129).abs() < 0.01, "{p}");
    }

    #[test]
    fn the_approximation_is_near_the_exact_value() {
        let a: Vec<f64> = (0..31).map(|n| f64::from(n) * 2.0).collect();
        let b: Vec<f64> = (0..31).map(|n| f64::from(n) * 2.0 + 15.0).collect();
        let large = mann_whitney(&a, &b).unwrap();
        let exact = mann_whitney(&a[..30], &b[..30]).unwrap();
        assert!(large < 0.02 && exact < 0.03 && large > exact / 4.0, "{large} {exact}");
    }

    /// One distribution: a test at 5 % cries wolf in 5 % of the cases.
    #[test]
    fn noise_alone_is_seldom_a_difference() {
        let mut random = Random::new(3);
        let mut sample = || (0..8).map(|_| 100.0 + random.normal()).collect::<Vec<_>>();
        let wolves = (0..2000)
            .filter(|_| mann_whitney(&sample(), &sample()).is_some_and(|p| p < 0.05))
            .count();
        assert!((50..=110).contains(&wolves), "{wolves} of 2000");
    }

    #[test]
    fn the_interval_of_a_ratio_covers_it_and_is_the_same_each_time() {
        let mut random = Random::new(5);
        let mut covered = 0;
        for _ in 0..30 {
            let a: Vec<f64> = (0..15).map(|_| 100.0 + random.normal()).collect();
            let b: Vec<f64> = (0..15).map(|_| 110.0 + random.normal()).collect();
            let (low, high) = ratio_interval(&a, &b).unwrap();
            assert_eq!(ratio_interval(&a, &b), Some((low, high)));
            covered += usize::from(low <= 1.1 && 1.1 <= high);
        }
        assert!(covered >= 24, "{covered}");
        assert_eq!(ratio_interval(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(ratio_interval(&[0.0, 0.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn poisson_bounds_are_the_textbook_s() {
        for (count, lower, upper) in [(0, 0.0, 2.9957), (1, 0.0513, 4.7439), (10, 5.4254, 16.9622)]
        {
            assert!((poisson_upper(count, 0.95) - upper).abs() < 1e-3);
            assert!((poisson_lower(count, 0.95) - lower).abs() < 1e-3);
        }
        // Across the change of method.
        let (below, above) = (poisson_upper(100_000, 0.95), poisson_upper(100_001, 0.95));
        assert!((above - below - 1.0).abs() < 0.5, "{below} {above}");
        assert!((poisson_upper(1_000_000, 0.95) - 1_001_646.0).abs() < 5.0);
    }

    #[test]
    fn medians_and_variation() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert!((variation(&[9.0, 11.0]).unwrap() - 0.1414).abs() < 1e-3);
        assert_eq!(variation(&[1.0]), None);
    }
}
