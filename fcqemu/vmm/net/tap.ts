/**
 * Checks of a tap device while it is configured. Firecracker opens it then; fcqemu leaves that to QEMU and
 * reads in /sys what the open would have said.
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { errorCode, ioErrorText, systemErrorText } from '../../fault.ts';

const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const MAX_NAME_BYTES = 15;

/** @returns why the device cannot be opened, in Firecracker's words; undefined when it can */
export function tapProblem(name: string): string | undefined {
  if (name === '' || Buffer.byteLength(name) > MAX_NAME_BYTES || /[/\0]/.test(name) || name === '.' || name === '..') {
    return 'Invalid interface name';
  }
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    return `Couldn't open /dev/net/tun: ${ioErrorText(error)}`;
  }
  const code = openErrorCode(name);
  if (code === undefined) return undefined;
  return (
    `Error while creating ifreq structure: ${systemErrorText(code)}. Invalid TUN/TAP Backend provided by ${name}. ` +
    'Check our documentation on setting up the network devices.'
  );
}

/** The errno TUNSETIFF would give. A missing device is never created here, whoever asks. */
function openErrorCode(name: string): 'EPERM' | 'EINVAL' | 'EBUSY' | undefined {
  const attribute = (file: string) => readAttribute(`/sys/class/net/${name}/${file}`);
  if (attribute('ifindex') === undefined) return 'EPERM';
  const flags = Number(attribute('tun_flags') ?? '0');
  if (!(flags & IFF_TAP) || flags & IFF_MULTI_QUEUE) return 'EINVAL';
  const owner = Number(attribute('owner') ?? '-1');
  const uid = process.geteuid?.() ?? 0;
  if (uid !== 0 && owner !== uid) return 'EPERM';
  // a tap has carrier while a process holds it; the file cannot be read while the link is down
  return attribute('carrier') === '1' ? 'EBUSY' : undefined;
}

function readAttribute(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch (error) {
    if (errorCode(error) === 'EINVAL') return '';
    return undefined;
  }
}
