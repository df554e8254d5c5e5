/** Snapshots: create, load into other processes, overrides, and everything that may be wrong with the files. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { firecrackerBin, guestSkipReason, runVmm, startVmm, type Vmm, waitFor } from './support/vmm-process.ts';

const skip = guestSkipReason() ?? (firecrackerBin ? 'the formats differ on purpose' : false);

/** Says who it is, then echoes three bytes and resets. */
const ECHO = [
  ...code.print('booted '),
  ...[1, 2, 3].flatMap(() => [...code.waitForByte(), ...code.echo()]),
  ...code.reset(),
];

interface Snapshot {
  state: string;
  memory: string;
}

async function source(t: TestContext, prepare: (vmm: Vmm) => Promise<void> = async () => {}): Promise<Vmm> {
  const vmm = await startVmm(t, { stdin: 'pipe' });
  await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(ECHO)) });
  await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 32 });
  await prepare(vmm);
  await vmm.put('/actions', { action_type: 'InstanceStart' });
  await waitFor(() => vmm.output() === 'booted ', 'the guest');
  return vmm;
}

async function take(vmm: Vmm, name = 'snapshot'): Promise<Snapshot> {
  const snapshot = { state: join(vmm.dir, `${name}.state`), memory: join(vmm.dir, `${name}.memory`) };
  await vmm.patch('/vm', { state: 'Paused' });
  await vmm.put('/snapshot/create', { snapshot_path: snapshot.state, mem_file_path: snapshot.memory });
  return snapshot;
}

const loadBody = ({ state, memory }: Snapshot, more: object = {}) => ({
  snapshot_path: state,
  mem_backend: { backend_type: 'File', backend_path: memory },
  ...more,
});

/** Disk images that the QEMU of a VMM has open. */
function openImages({ process: { pid } }: Vmm): string[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean);
  const links = children.flatMap((child) => readdirSync(`/proc/${child}/fd`).map((fd) => `/proc/${child}/fd/${fd}`));
  return links.map((link) => readlinkSync(link)).filter((path) => path.endsWith('.img'));
}

async function type(vmm: Vmm, text: string): Promise<void> {
  vmm.process.stdin?.write(text);
  await waitFor(() => vmm.output().endsWith(text), `the echo of ${text}`);
}

describe('a snapshot', { skip }, () => {
  it('goes on where it was taken, in any number of clones, while the original runs on', async (t) => {
    const original = await source(t);
    await type(original, 'a');
    const snapshot = await take(original);
    const { size, blocks } = statSync(snapshot.memory);
    assert.equal(size, 32 * 1024 * 1024);
    assert.ok(blocks * 512 < size / 4, `${blocks * 512} bytes for a guest that has touched next to nothing`);
    const memoryBefore = readFileSync(snapshot.memory);
    // the kernel, where it was loaded to
    assert.ok(memoryBefore.subarray(0x100000, 0x100000 + ECHO.length).equals(Buffer.from(ECHO)));
    await original.patch('/vm', { state: 'Resumed' });
    await type(original, 'b');

    // a restored machine has its kernel in memory
    unlinkSync(join(original.dir, 'vmlinux'));
    for (const text of ['XY', 'ZW']) {
      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.put('/snapshot/load', loadBody(snapshot));
      assert.equal((await clone.get('/')).state, 'Paused');
      assert.equal((await clone.get('/machine-config')).mem_size_mib, 32);
      await clone.patch('/vm', { state: 'Resumed' });
      await type(clone, text);
      const end = await clone.ended;
      assert.deepEqual([end.code, end.stdout], [0, text]);
    }
    assert.ok(readFileSync(snapshot.memory).equals(memoryBefore), 'a clone changed the memory file');
    original.process.stdin?.write('c');
    assert.equal((await original.ended).stdout, 'booted abc');
  });

  it('runs at once when asked, and can be taken of a clone', async (t) => {
    const original = await source(t);
    const first = await take(original);
    const clone = await startVmm(t, { stdin: 'pipe' });
    await clone.put('/snapshot/load', loadBody(first, { resume_vm: true }));
    assert.equal((await clone.get('/')).state, 'Running');
    await type(clone, '1');
    const second = await take(clone, 'second');
    const grandchild = await startVmm(t, { stdin: 'pipe' });
    await grandchild.put('/snapshot/load', loadBody(second, { resume_vm: true }));
    await type(grandchild, '23');
    assert.equal((await grandchild.ended).code, 0);
  });

  it('of a clone may go over the very file the clone runs from', async (t) => {
    const original = await source(t);
    const first = await take(original);
    const clone = await startVmm(t, { stdin: 'pipe' });
    await clone.put('/snapshot/load', loadBody(first, { resume_vm: true }));
    await type(clone, '1');
    await clone.patch('/vm', { state: 'Paused' });
    await clone.put('/snapshot/create', { snapshot_path: first.state, mem_file_path: first.memory });
    await clone.patch('/vm', { state: 'Resumed' });
    await type(clone, '2');
    const next = await startVmm(t, { stdin: 'pipe' });
    await next.put('/snapshot/load', loadBody(first, { resume_vm: true }));
    for (const [vmm, text] of [
      [clone, '3'],
      [next, '23'],
    ] as const) {
      await type(vmm, text);
      assert.equal((await vmm.ended).code, 0);
    }
  });

  it('can be taken of a clone whose memory file was deleted or replaced', async (t) => {
    const original = await source(t);
    const first = await take(original);
    const change: Record<string, (path: string) => void> = {
      deleted: unlinkSync,
      replaced: (path) => {
        writeFileSync(`${path}.new`, Buffer.alloc(statSync(path).size, 'x'));
        renameSync(`${path}.new`, path);
      },
    };
    for (const [name, act] of Object.entries(change)) {
      const memory = join(original.dir, `${name}.memory`);
      copyFileSync(first.memory, memory);
      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.put('/snapshot/load', loadBody({ ...first, memory }, { resume_vm: true }));
      await type(clone, '1');
      act(memory);
      const second = await take(clone, name === 'deleted' ? 'deleted' : 'second');
      await clone.patch('/vm', { state: 'Resumed' });
      await type(clone, '2');
      const grandchild = await startVmm(t, { stdin: 'pipe' });
      await grandchild.put('/snapshot/load', loadBody(second, { resume_vm: true }));
      await type(grandchild, '23');
      assert.equal((await grandchild.ended).code, 0);
    }
  });

  it('of a clone has what the memory file behind it has, without filling its holes', async (t) => {
    const first = await take(await source(t));
    const size = statSync(first.memory).size;
    const file = openSync(first.memory, 'r+');
    // a page alone, two in a gap that is read through, one behind it, and the last
    for (const [at, length] of [
      [size / 2, 4096],
      [size / 2 + 64 * 1024, 3 * 4096],
      [(size * 3) / 4 + 4096, 5 * 1024 * 1024],
      [size - 4096, 4096],
    ] as const) {
      writeSync(file, Buffer.alloc(length, `at ${at}`), 0, length, at);
    }
    closeSync(file);
    const clone = await startVmm(t, { stdin: 'pipe' });
    await clone.put('/snapshot/load', loadBody(first));
    const second = await take(clone, 'second');
    assert.ok(readFileSync(second.memory).equals(readFileSync(first.memory)));
    const [before, after] = [first, second].map(({ memory }) => statSync(memory).blocks * 512);
    assert.ok(
      (after ?? 0) < (before ?? 0) + 16 * 1024 * 1024,
      `${after} of ${size} bytes, where the first takes ${before}`,
    );
  });

  it('takes the name of another memory file and leaves that to those who run from it', async (t) => {
    const original = await source(t);
    const first = await take(original);
    chmodSync(first.memory, 0o640);
    const before = openSync(first.memory, 'r');
    t.after(() => closeSync(before));
    const content = readFileSync(before);
    const clones = [await startVmm(t, { stdin: 'pipe' }), await startVmm(t, { stdin: 'pipe' })] as const;
    // what one that was killed left may have any name
    const leftOver = `${basename(first.memory)}.${clones[0].process.pid}.new`;
    writeFileSync(join(original.dir, leftOver), 'left over');
    for (const clone of clones) await clone.put('/snapshot/load', loadBody(first, { resume_vm: true }));
    await type(clones[0], '1');
    for (const vmm of [clones[0], original]) {
      if (vmm !== original) await vmm.patch('/vm', { state: 'Paused' });
      await vmm.put('/snapshot/create', { snapshot_path: `${first.state}.next`, mem_file_path: first.memory });
      const after = Buffer.alloc(content.length);
      readSync(before, after, 0, after.length, 0);
      assert.ok(after.equals(content), 'the memory of a running machine was written over');
      assert.equal(statSync(first.memory).mode & 0o777, 0o640);
    }
    assert.deepEqual(
      readdirSync(original.dir).filter((name) => name.endsWith('.new')),
      [leftOver],
    );
    await type(clones[1], '123');
    assert.equal((await clones[1].ended).code, 0);
  });

  it('is refused where the memory file would have to be written over', async (t) => {
    const original = await source(t);
    const first = await take(original);
    // too long for a second name beside it
    const memory = join(original.dir, 'm'.repeat(250));
    renameSync(first.memory, memory);
    const content = readFileSync(memory);
    await original.patch('/vm', { state: 'Resumed' });
    await type(original, 'a');
    await original.patch('/vm', { state: 'Paused' });
    const paths = { snapshot_path: first.state, mem_file_path: memory };
    assert.equal(
      await original.fault('PUT', '/snapshot/create', paths),
      'Create snapshot error: Cannot write the guest memory to file: Filename too long (os error 36)',
    );
    assert.ok(readFileSync(memory).equals(content));
    unlinkSync(memory);
    await original.put('/snapshot/create', paths);
    assert.equal(statSync(memory).size, content.length);
  });

  it('may be written to what is no ordinary file', async (t) => {
    const original = await source(t);
    const first = await take(original);
    const memory = join(original.dir, 'link');
    const behind = join(original.dir, 'behind');
    symlinkSync(behind, memory);
    for (let time = 0; time < 2; time++) {
      await original.put('/snapshot/create', { snapshot_path: first.state, mem_file_path: memory });
      assert.ok(readFileSync(behind).equals(readFileSync(first.memory)));
      assert.ok(lstatSync(memory).isSymbolicLink());
    }
  });

  it('brings its devices and says how it was booted', async (t) => {
    const original = await source(t, async (vmm) => {
      const path_on_host = await vmm.file('disk', Buffer.alloc(4096));
      const rate_limiter = { bandwidth: { size: 1000, refill_time: 100 } };
      await vmm.put('/drives/a', { drive_id: 'a', is_root_device: true, path_on_host, rate_limiter });
      await vmm.put('/entropy', {});
      await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1 });
    });
    const other = await original.file('other', Buffer.alloc(8192));
    await original.patch('/drives/a', { drive_id: 'a', path_on_host: other });
    const before = await original.get<Record<string, unknown>>('/vm/config');
    const snapshot = await take(original);
    renameSync(other, `${other}-moved`);
    const homeless = await startVmm(t);
    assert.match(
      await homeless.fault('PUT', '/snapshot/load', loadBody(snapshot)),
      /Failed to restore devices: Error restoring MMIO devices: Block: Virtio backend error: Error manipulating the backing file: No such file or directory \(os error 2\) .*other$/,
    );
    renameSync(`${other}-moved`, other);
    const clone = await startVmm(t);
    await clone.put('/snapshot/load', loadBody(snapshot));
    assert.deepEqual(await clone.get('/vm/config'), before);
    assert.equal((await clone.get('/balloon/statistics')).target_mib, 0);
    await clone.patch('/drives/a', { drive_id: 'a', path_on_host: await clone.file('third', Buffer.alloc(512)) });
  });

  it('of a machine that was told relative paths names no place: each clone opens the files of its own directory', async (t) => {
    const original = await source(t, async (vmm) => {
      await vmm.file('root.img', Buffer.alloc(4096, 'a'));
      await vmm.put('/drives/root', { drive_id: 'root', is_root_device: false, path_on_host: 'root.img' });
    });
    await original.patch('/vm', { state: 'Paused' });
    await original.put('/snapshot/create', { snapshot_path: 'state', mem_file_path: 'memory' });
    const ofOriginal = { state: join(original.dir, 'state'), memory: join(original.dir, 'memory') };
    for (const generation of ['child', 'grandchild']) {
      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.file('root.img', Buffer.alloc(4096, 'b'));
      await clone.put('/snapshot/load', loadBody(ofOriginal));
      assert.deepEqual(openImages(clone), [join(clone.dir, 'root.img')], generation);
      assert.equal(
        (await clone.get<{ drives: { path_on_host: string }[] }>('/vm/config')).drives[0]?.path_on_host,
        'root.img',
      );
      await clone.patch('/vm', { state: 'Resumed' });
      await type(clone, '1');
      // a second generation is as free of places as the first
      await clone.patch('/vm', { state: 'Paused' });
      await clone.put('/snapshot/create', { snapshot_path: 'state', mem_file_path: 'memory' });
      for (const name of ['state', 'memory']) copyFileSync(join(clone.dir, name), join(original.dir, name));
    }
  });

  it('leaves a machine whose drives can still be changed', async (t) => {
    const original = await source(t, async (vmm) => {
      for (const id of ['rw', 'ro']) {
        const path_on_host = await vmm.file(id, Buffer.alloc(4096));
        await vmm.put(`/drives/${id}`, {
          drive_id: id,
          is_root_device: false,
          path_on_host,
          is_read_only: id === 'ro',
        });
      }
      await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1 });
    });
    await take(original);
    for (const id of ['rw', 'ro']) {
      await original.patch(`/drives/${id}`, {
        drive_id: id,
        path_on_host: await original.file(`${id}2`, Buffer.alloc(8192)),
      });
      await original.patch(`/drives/${id}`, { drive_id: id, rate_limiter: { ops: { size: 10, refill_time: 100 } } });
    }
    await original.patch('/balloon/statistics', { stats_polling_interval_s: 2 });
    await original.put('/actions', { action_type: 'FlushMetrics' });
    await original.patch('/vm', { state: 'Resumed' });
    await type(original, 'x');
  });

  it('can be taken twice of the same moment', async (t) => {
    const original = await source(t);
    const [first, second] = [await take(original, 'one'), await take(original, 'two')];
    assert.ok(readFileSync(first.memory).equals(readFileSync(second.memory)));
    for (const snapshot of [first, second]) {
      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.put('/snapshot/load', loadBody(snapshot, { resume_vm: true }));
      await type(clone, 'q');
    }
  });

  it('accepts the deprecated way to name the memory file, and says so', async (t) => {
    const snapshot = await take(await source(t));
    const clone = await startVmm(t);
    const body = { snapshot_path: snapshot.state, mem_file_path: snapshot.memory };
    const answer = await clone.call('PUT', '/snapshot/load', body);
    assert.equal(answer.status, 204);
    assert.equal(answer.headers.Deprecation, 'true');
  });

  it('needs a paused machine, and is never a diff', async (t) => {
    const vmm = await source(t);
    const body = { snapshot_path: join(vmm.dir, 's'), mem_file_path: join(vmm.dir, 'm') };
    assert.equal(
      await vmm.fault('PUT', '/snapshot/create', body),
      'Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running',
    );
    await vmm.patch('/vm', { state: 'Paused' });
    assert.equal(
      await vmm.fault('PUT', '/snapshot/create', { ...body, snapshot_type: 'Diff' }),
      'Create snapshot error: diff snapshots are not supported by fcqemu',
    );
    assert.match(
      await vmm.fault('PUT', '/snapshot/create', { ...body, mem_file_path: '/nonexistent/m' }),
      /^Create snapshot error: Cannot perform open on the memory backing file: No such file or directory/,
    );
    // and after a failure everything still works
    await vmm.put('/snapshot/create', body);
    await vmm.patch('/vm', { state: 'Resumed' });
    await type(vmm, 'x');
  });

  it('has files with the rights that the umask leaves', async (t) => {
    const { state, memory } = await take(await source(t));
    const rights = 0o666 & ~process.umask();
    assert.deepEqual(
      [state, memory].map((path) => statSync(path).mode & 0o777),
      [rights, rights],
    );
  });

  it('has a version that can be asked for', async (t) => {
    const { state } = await take(await source(t));
    const own = await runVmm(['--snapshot-version']);
    const described = await runVmm(['--describe-snapshot', state]);
    assert.deepEqual([own.code, described.code], [0, 0]);
    assert.match(own.stdout, /^v\d+\.\d+\.\d+\n/);
    assert.equal(described.stdout.split('\n')[0], own.stdout.split('\n')[0]);
    assert.equal((await runVmm(['--describe-snapshot', '/nonexistent'])).code, 1);
  });
});

describe('a load request', { skip }, () => {
  it('names exactly one memory, before anything boot-specific, and leaves the process alive', async (t) => {
    const vmm = await startVmm(t);
    const trouble = 'An error occurred when deserializing the json body of a request:';
    assert.equal(
      await vmm.fault('PUT', '/snapshot/load', { snapshot_path: 'x' }),
      `${trouble} missing field: either \`mem_backend\` or \`mem_file_path\` is required.`,
    );
    assert.equal(
      await vmm.fault('PUT', '/snapshot/load', { ...loadBody({ state: 'x', memory: 'y' }), mem_file_path: 'z' }),
      `${trouble} too many fields: either \`mem_backend\` or \`mem_file_path\` exclusively is required.`,
    );
    await vmm.put('/logger', {});
    await vmm.put('/mmds', {});
    await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 128 });
    assert.equal(
      await vmm.fault('PUT', '/snapshot/load', loadBody({ state: 'x', memory: 'y' })),
      'Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.',
    );
    assert.equal((await vmm.get('/')).state, 'Not started');
  });

  it('that fails is answered, and then ends the process with 1', async (t) => {
    const good = await take(await source(t));
    const file = (name: string) => `${good.state}-${name}`;
    const changed = (name: string, change: (path: string) => void) => {
      copyFileSync(good.state, file(name));
      change(file(name));
      return file(name);
    };
    const smallMemory = file('small');
    writeFileSync(smallMemory, 'x');
    const prefix = 'Load snapshot error: Failed to restore from snapshot: ';
    const cases: [snapshot: Snapshot, more: object, message: RegExp][] = [
      [
        { ...good, state: '/nonexistent' },
        {},
        /Failed to get snapshot state from file: Failed to open snapshot file: No such file or directory \(os error 2\)$/,
      ],
      [
        { ...good, state: changed('empty', (path) => truncateSync(path, 0)) },
        {},
        /IO Error: File too short to contain CRC$/,
      ],
      [
        { ...good, state: changed('foreign', (path) => writeFileSync(path, Buffer.alloc(5000))) },
        {},
        /Failed to load snapshot state from file: An error occurred during bitcode serialization: bitcode error$/,
      ],
      [
        { ...good, state: changed('cut', (path) => truncateSync(path, statSync(path).size - 9)) },
        {},
        /Failed to load snapshot state from file: CRC64 validation failed$/,
      ],
      [
        { ...good, memory: '/nonexistent' },
        {},
        /Failed to load guest memory: Error creating guest memory from file: Failed to load guest memory: No such file or directory \(os error 2\)$/,
      ],
      [
        { ...good, memory: smallMemory },
        {},
        /Failed to restore guest memory: Total sum of memory regions exceeds largest possible file offset$/,
      ],
      [
        good,
        { network_overrides: [{ iface_id: 'eth9', host_dev_name: 'tap9' }] },
        /Failed to get snapshot state from file: Unknown Network Device\.$/,
      ],
      [good, { vsock_override: { uds_path: 'x' } }, /Failed to get snapshot state from file: Unknown Vsock Device\.$/],
    ];
    for (const [snapshot, more, message] of cases) {
      const vmm = await startVmm(t);
      const fault = await vmm.fault('PUT', '/snapshot/load', loadBody(snapshot, more));
      assert.ok(fault.startsWith(prefix), fault);
      assert.match(fault, message);
      assert.equal((await vmm.ended).code, 1, fault);
    }
  });
});
