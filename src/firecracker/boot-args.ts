/** The guest's kernel command line. */
import { BangerError } from '../errors.ts';

/** Firecracker's limit for the whole line with what it adds itself; the rest is left for that. */
const MAX_LENGTH = 1900;

const ALWAYS = [
  'console=ttyS0',
  // a guest's reboot resets through the keyboard controller, which ends the VMM; the daemon starts it again
  'reboot=k',
  'panic=1',
  // boot messages on an emulated serial line cost more than the work they report
  'quiet',
  // a fifth of an emulated kernel's boot: the algorithms of Debian's kernel were tested by who built it
  'cryptomgr.notests',
  // the one network device is eth0, whatever the guest's udev would call it
  'net.ifnames=0',
  // the initrd starts sshd ahead of the other services by priority, which counts only without autogroups
  'noautogroup',
];

export interface BootDevices {
  /** device names inside the guest, e.g. `/dev/vda` */
  root: string;
  seed: string;
  work: string | undefined;
}

/** @throws BangerError `invalid_input` when the line becomes longer than Firecracker takes */
export function bootArgs(devices: BootDevices, extra: string): string {
  const line = [
    ...ALWAYS,
    `banger.root=${devices.root}`,
    `banger.seed=${devices.seed}`,
    ...(devices.work ? [`banger.work=${devices.work}`] : []),
    ...(extra.trim() ? [extra.trim()] : []),
  ].join(' ');
  if (line.length > MAX_LENGTH) {
    throw new BangerError(
      'invalid_input',
      `The kernel command line has ${line.length} characters; ${MAX_LENGTH} are allowed.`,
      {
        hint: 'Shorten vm.boot_args: banger config show',
      },
    );
  }
  return line;
}
