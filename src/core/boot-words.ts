/** What a guest says about its boot on its console; docs/guest-contract.md has the lines. */

/** The guest has reached its default target: seconds since the kernel started, then the units that failed. */
export const READY_LINE = 'banger-ready:';

/** The guest will say when it is ready. */
export const READY_ANNOUNCED = 'banger-init: ready is said by';

/** File of guests in which no device needs udev, so that it may end first when they go down. */
export const UDEV_GOES_FIRST = '/run/systemd/system/systemd-udevd.service.d/10-banger.conf';

const HANDOVER = /banger-init: handover \d/;
const READY = new RegExp(`${READY_LINE} (\\d+(?:\\.\\d+)?)((?: [\\w@.:\\\\-]+)*)`);

/** A guest can print for ever without ending a line. */
const MAX_LINE = 4096;
/** Names of units that are kept; a guest may claim any number, of any length. systemd's have 255 bytes at most. */
const MAX_UNITS = 20;
const MAX_UNIT_LENGTH = 255;

export type BootWord =
  | { kind: 'announced' }
  /** the initrd has given over to the guest's own init */
  | { kind: 'handover' }
  | { kind: 'ready'; uptimeMs: number; failedUnits: string[] };

/** A reader to feed with the console's text, without control sequences, as it comes. */
export function createBootWordReader(): (text: string) => BootWord[] {
  let open = '';
  return (text) => {
    const lines = (open + text).split('\n');
    open = (lines.pop() ?? '').slice(-MAX_LINE);
    return lines.flatMap(wordOf);
  };
}

function wordOf(line: string): BootWord[] {
  if (line.includes(READY_ANNOUNCED)) return [{ kind: 'announced' }];
  if (HANDOVER.test(line)) return [{ kind: 'handover' }];
  const [, uptime, units] = READY.exec(line) ?? [];
  if (uptime === undefined) return [];
  const failedUnits = (units ?? '').split(' ').filter((unit) => unit !== '' && unit.length <= MAX_UNIT_LENGTH);
  return [{ kind: 'ready', uptimeMs: Number(uptime) * 1000, failedUnits: failedUnits.slice(0, MAX_UNITS) }];
}
