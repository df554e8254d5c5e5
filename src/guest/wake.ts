/** What a guest needs that is to go on from kept memory: before it is kept, and once it goes on. */

/** RNDADDENTROPY and RNDRESEEDCRNG of linux/random.h, the same on x86_64 and arm64. */
const RNDADDENTROPY = 0x40_08_52_03;
const RNDRESEEDCRNG = 0x52_07;

/** Where a guest that was kept takes logins beside its ordinary port. */
export const WAKE_PORT = 42_022;

/** What the guest says last, and how the shell ends, when it could not be woken. */
export const NOT_WOKEN = 'banger: neither time nor seed could be set';
export const WAKE_FAILED = 119;

/**
 * POSIX shell script for a guest that is about to be kept. It fails where `wakeScript` would, by doing the same: reseeding at
 * once takes an ioctl and so perl, which is in every Debian. Then it starts a second SSH server, without sessions of PAM and (-r) without starting itself anew
 * for each login, which is half of what a login costs an emulated guest. Without it, the ordinary one does.
 */
export function prepareScript(now: Date, seed: Buffer): string {
  const server = `/usr/sbin/sshd -r -p ${WAKE_PORT} -o UsePAM=no -o UseDNS=no -o PidFile=none`;
  return `${wakeScript(now, seed)}${server} > /dev/null 2>&1 || true\n`;
}

/**
 * POSIX shell commands that set the clock and give the kernel a new seed, which it uses from then on: two guests that go on from the
 * same memory would otherwise draw the same keys. They end the shell with `WAKE_FAILED` when that fails.
 * @param seed secret random bytes, a multiple of 4
 */
export function wakeScript(now: Date, seed: Buffer): string {
  // busybox knows whole seconds only
  const set = `date -u -s @${Math.round(now.getTime() / 1000)} && ${reseed(seed)}`;
  return `{ ${set}; } > /dev/null 2>&1 < /dev/null || { echo '${NOT_WOKEN}' >&2; exit ${WAKE_FAILED}; }\n`;
}

/** What `resumeScript` says when it waits for the time, which is the next line of its input: seconds since 1970. */
export const AWAKE = 'banger: awake';

/**
 * The same for a guest that goes on as itself. It is told the time when it is there to hear it: a busy emulated guest needs
 * seconds to begin a shell. Where there is no perl it goes on without a new seed, and ends the shell with `WAKE_FAILED`.
 */
export function resumeScript(seed: Buffer): string {
  // busybox knows whole seconds only
  const set = 'date -u -s "@$now" || date -u -s "@$(echo "$now" | cut -d. -f1)"';
  return [
    `echo '${AWAKE}'`,
    'read -r now',
    `{ ${set}; } > /dev/null 2>&1 || exit ${WAKE_FAILED}`,
    `{ ${reseed(seed)}; } > /dev/null 2>&1 < /dev/null || exit ${WAKE_FAILED}`,
    '',
  ].join('\n');
}

function reseed(seed: Buffer): string {
  const perl = [
    'open(my $random, ">", "/dev/urandom") or die;',
    `my $seed = pack("H*", "${seed.toString('hex')}");`,
    `ioctl($random, ${RNDADDENTROPY}, pack("i i a*", ${seed.length * 8}, ${seed.length}, $seed)) or die;`,
    `ioctl($random, ${RNDRESEEDCRNG}, 0) or die;`,
  ].join(' ');
  return `perl -e '${perl}'`;
}
