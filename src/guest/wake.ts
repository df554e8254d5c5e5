/** What a guest needs that is to go on from kept memory: before it is kept, and once it goes on. */

/** RNDADDENTROPY and RNDRESEEDCRNG of linux/random.h, the same on x86_64 and arm64. */
const RNDADDENTROPY = 0x40_08_52_03;
const RNDRESEEDCRNG = 0x52_07;

/** Where a guest that was kept takes logins beside its ordinary port. */
export const WAKE_PORT = 42_022;

/** How `wakeScript` ends when the guest could not be woken; no other program of a build ends so. */
export const WAKE_FAILED = 119;

/**
 * Shell script for a guest that is about to be kept. It fails where `wakeScript` would: reseeding at once takes an ioctl, and
 * perl is in every Debian. Then it starts a second SSH server, without sessions of PAM and (-r) without starting itself anew
 * for each login, which is half of what a login costs an emulated guest. Without it, the ordinary one does.
 */
export const PREPARE_SCRIPT = [
  'command -v perl > /dev/null || exit',
  `/usr/sbin/sshd -r -p ${WAKE_PORT} -o UsePAM=no -o UseDNS=no -o PidFile=none > /dev/null 2>&1 || true`,
].join('\n');

/**
 * Shell commands that set the clock and give the kernel a new seed, which it uses from then on: two guests that go on from the
 * same memory would otherwise draw the same keys. They end the shell with `WAKE_FAILED` when that fails.
 * @param seed secret random bytes, a multiple of 4
 */
export function wakeScript(now: Date, seed: Buffer): string {
  const perl = [
    'open(my $random, ">", "/dev/urandom") or die;',
    `my $seed = pack("H*", "${seed.toString('hex')}");`,
    `ioctl($random, ${RNDADDENTROPY}, pack("i i a*", ${seed.length * 8}, ${seed.length}, $seed)) or die;`,
    `ioctl($random, ${RNDRESEEDCRNG}, 0) or die;`,
  ].join(' ');
  const seconds = (now.getTime() / 1000).toFixed(1);
  return `{ date -u -s @${seconds} && perl -e '${perl}'; } > /dev/null 2>&1 < /dev/null || exit ${WAKE_FAILED}\n`;
}
