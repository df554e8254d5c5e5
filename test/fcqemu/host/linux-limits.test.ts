/** Limits of drives and of the entropy device, as a Linux guest feels them. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { paced } from '../../support/pace.ts';
import { linuxSkipReason, prepared, start } from '../support/linux-guest.ts';

/** Guest function: `timed NAME COMMAND…` prints the time around a command. */
const TIMED = `timed() { n=$1; shift; b=$(cut -d' ' -f1 /proc/uptime); "$@" > /dev/null 2>&1; echo "$n: $b to $(cut -d' ' -f1 /proc/uptime)"; }`;

function seconds(output: string, name: string): number {
  const [, from, to] = new RegExp(`${name}: ([\\d.]+) to ([\\d.]+)`).exec(output) ?? [];
  return Number(to) - Number(from);
}

describe('limits', { skip: linuxSkipReason(), timeout: paced(300_000) }, () => {
  it('of a drive grant a burst once, and the rate afterwards', async (t) => {
    const vmm = await prepared(
      t,
      `${TIMED}
timed burst dd if=/dev/vda bs=1M count=6 iflag=direct; sleep 5
timed first dd if=/dev/vda bs=1M count=4 iflag=direct; timed second dd if=/dev/vda bs=1M count=4 iflag=direct; reboot -f`,
    );
    // within its pause fcqemu sees that the burst is spent
    const path_on_host = await vmm.file('disk', Buffer.alloc(8 * 1024 * 1024));
    const bandwidth = { size: 1024 * 1024, refill_time: 1000, one_time_burst: 6 * 1024 * 1024 };
    await vmm.put('/drives/d', { drive_id: 'd', is_root_device: false, path_on_host, rate_limiter: { bandwidth } });
    await start(vmm);
    const { stdout } = await vmm.ended;
    assert.ok(seconds(stdout, 'burst') < 2.5, stdout);
    // 8 MiB at 1 MiB per second, of which the bucket and one reset of it are free
    assert.ok(seconds(stdout, 'first') + seconds(stdout, 'second') > 4, stdout);
  });

  it('of the entropy device hold for bytes, and what was given is counted', async (t) => {
    const vmm = await prepared(t, `${TIMED}\ntimed random dd if=/dev/hwrng bs=500 count=4 iflag=fullblock; reboot -f`);
    const bandwidth = { size: 100, refill_time: 100, one_time_burst: 300 };
    await vmm.put('/entropy', { rate_limiter: { bandwidth } });
    await vmm.put('/metrics', { metrics_path: join(vmm.dir, 'metrics') });
    await start(vmm);
    const { stdout, code } = await vmm.ended;
    assert.equal(code, 0);
    // 2000 bytes at 1000 per second
    assert.ok(seconds(stdout, 'random') > 1.2, stdout);
    const lines = readFileSync(join(vmm.dir, 'metrics'), 'utf8').trim().split('\n');
    const counted = (name: string) => lines.reduce((sum, line) => sum + JSON.parse(line).entropy[name], 0);
    assert.ok(counted('entropy_bytes') >= 2000);
    assert.ok(counted('entropy_rate_limiter_throttled') > 0);
  });
});
