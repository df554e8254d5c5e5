/** What a Linux guest feels of a host file system that is full: I/O errors, and nothing else. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { paced } from '../../support/pace.ts';
import { linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { startVmm, type Vmm } from '../support/vmm-process.ts';

const skip = linuxSkipReason() || (process.getuid?.() === 0 ? false : 'mounting a file system needs root');

/** A file system with room for the disk in it, until a ballast takes half of it. */
function smallFileSystem(t: TestContext): { disk: string; makeRoom: () => void; fill: () => void } {
  const directory = mkdtempSync(join(tmpdir(), 'fcqemu-full-'));
  assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'small', directory]).status, 0);
  t.after(() => {
    spawnSync('umount', ['-l', directory]);
    rmdirSync(directory);
  });
  const disk = join(directory, 'disk');
  writeFileSync(disk, 'DISK');
  truncateSync(disk, 1024 * 1024 + 512 * 1024);
  const ballast = join(directory, 'ballast');
  const fill = () => writeFileSync(ballast, Buffer.alloc(1024 * 1024));
  return { disk, fill, makeRoom: () => rmSync(ballast) };
}

let asked = 0;

/** Lets the guest write its whole disk. @returns how the guest says it went */
async function write(vmm: Vmm): Promise<string> {
  const number = ++asked;
  vmm.process.stdin?.write(`${number}\n`);
  await said(vmm, `write ${number} is done`);
  return new RegExp(`write ${number}: (\\w+)`).exec(vmm.output())?.[1] ?? '';
}

describe('a full file system on the host', { skip, timeout: paced(300_000) }, () => {
  for (const io_engine of ['Sync', 'Async'] as const) {
    it(`is an I/O error for the guest, which goes on, whatever became of its drive (${io_engine})`, async (t) => {
      const [first, second] = [smallFileSystem(t), smallFileSystem(t)];
      const vmm = await prepared(
        t,
        `echo ready
while read n; do
  if dd if=/dev/zero of=/dev/vda bs=64k count=24 conv=fsync 2> /dev/null; then r=good; else r=failed; fi
  echo "write $n: $r"; echo "write $n is done"
done`,
        { stdin: 'pipe' },
      );
      await vmm.put('/drives/d', { drive_id: 'd', is_root_device: false, path_on_host: first.disk, io_engine });
      await start(vmm);
      await said(vmm, 'ready');
      first.fill();
      assert.equal(await write(vmm), 'failed');
      first.makeRoom();
      assert.equal(await write(vmm), 'good');

      second.fill();
      await vmm.patch('/drives/d', { drive_id: 'd', path_on_host: second.disk });
      assert.equal(await write(vmm), 'failed');
      assert.equal(await write(vmm), 'failed');
      await vmm.patch('/vm', { state: 'Paused' });
      const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
      await vmm.put('/snapshot/create', body);
      vmm.process.kill('SIGKILL');
      await vmm.ended;

      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.put('/snapshot/load', { ...body, resume_vm: true });
      assert.equal(await write(clone), 'failed');
      second.makeRoom();
      assert.equal(await write(clone), 'good');
    });
  }
});
