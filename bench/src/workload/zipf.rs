//! Which record is asked for next: a few of them often, most of them rarely.

use crate::noise::Noise;

/// Zipfian numbers below a bound, 0 the most frequent, by the method of Gray et al. (SIGMOD 1994), with the skew of YCSB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zipf {
    bound: u64,
    zeta: f64,
    eta: f64,
}

const SKEW: f64 = 0.99;

impl Zipf {
    /// Takes time in proportion to `bound`, which is greater than 0.
    pub(super) fn new(bound: u64) -> Zipf {
        let zeta_of = |n: u64| (1..=n).map(|i| (i as f64).powf(-SKEW)).sum::<f64>();
        let zeta = zeta_of(bound);
        let eta = (1.0 - (2.0 / bound as f64).powf(1.0 - SKEW)) / (1.0 - zeta_of(2) / zeta);
        Zipf { bound, zeta, eta }
    }

    /// The next number.
    pub(super) fn draw(&self, noise: &mut Noise) -> u64 {
        let u = noise.fraction();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(SKEW) {
            return 1.min(self.bound - 1);
        }
        let spread = (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - SKEW));
        ((self.bound as f64 * spread) as u64).min(self.bound - 1)
    }

    /// The same with the frequent ones scattered over all numbers.
    pub(super) fn draw_scattered(&self, noise: &mut Noise) -> u64 {
        Noise::at(&[self.draw(noise)]).below(self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_are_drawn_often_and_all_are_in_bounds() {
        let zipf = Zipf::new(1_000);
        let mut noise = Noise::at(&[3]);
        let mut counts = vec![0u32; 1_000];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut noise) as usize] += 1);
        // 1 / zeta(1,000) of the draws are number 0: about 13 %.
        assert!((11_000..15_500).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[1] && counts[1] > counts[100] && counts[100] > 0);
        assert!((0..1_000).all(|_| zipf.draw_scattered(&mut noise) < 1_000));
        assert_eq!(Zipf::new(1).draw(&mut noise), 0);
    }
}
