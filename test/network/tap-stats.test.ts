import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { readTapStats } from '../../src/network/tap-stats.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('the counters of a tap', () => {
  it('are told from the guest’s side: what the host received is what the guest sent', async (t) => {
    const sysfs = await tempDir(t);
    const directory = join(sysfs, 'bgr-5f3a9c01/statistics');
    await mkdir(directory, { recursive: true });
    const counters = { rx_bytes: 1, tx_bytes: 2, rx_packets: 3, tx_packets: 4 };
    for (const [name, value] of Object.entries(counters)) await writeFile(join(directory, name), `${value}\n`);
    assert.deepEqual(await readTapStats('bgr-5f3a9c01', sysfs), {
      sentBytes: 1,
      receivedBytes: 2,
      sentPackets: 3,
      receivedPackets: 4,
    });
  });

  it('are read from the kernel, and are nothing for a device that is gone', async () => {
    assert.ok(await readTapStats('lo'));
    assert.equal(await readTapStats('bgr-00000000'), undefined);
  });
});
