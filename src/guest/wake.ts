/** What a guest that goes on from kept memory has to be told: what time it is, and that its random numbers were used before. */

/** RNDADDENTROPY and RNDRESEEDCRNG of linux/random.h, the same on x86_64 and arm64. */
const RNDADDENTROPY = 0x40_08_52_03;
const RNDRESEEDCRNG = 0x52_07;

/** Prints nothing and succeeds where `wakeScript` can work: reseeding at once takes an ioctl, and perl is in every Debian. */
export const CAN_WAKE = 'command -v perl > /dev/null';

/**
 * Shell script that sets the clock and gives the kernel a new seed, which it begins to use before the script ends: two
 * guests that go on from the same memory would otherwise draw the same keys.
 * @param seed secret random bytes, a multiple of 4
 */
export function wakeScript(now: Date, seed: Buffer): string {
  const perl = [
    `open(my $random, ">", "/dev/urandom") or die "/dev/urandom: $!\\n";`,
    `my $seed = pack("H*", "${seed.toString('hex')}");`,
    `ioctl($random, ${RNDADDENTROPY}, pack("i i a*", ${seed.length * 8}, ${seed.length}, $seed)) or die "RNDADDENTROPY: $!\\n";`,
    `ioctl($random, ${RNDRESEEDCRNG}, 0) or die "RNDRESEEDCRNG: $!\\n";`,
  ].join(' ');
  return `date -u -s @${(now.getTime() / 1000).toFixed(1)} > /dev/null && exec perl -e '${perl}'`;
}
