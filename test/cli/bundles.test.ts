import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Operation } from '../../src/api/operation.ts';
import { cli, done, operation } from './cli.ts';

const bundle = {
  name: 'debian-trixie',
  directory: '/b/debian-trixie',
  arch: 'x86_64',
  kernelRelease: '6.12.0',
  createdAt: '2026-01-02T03:04:05.000Z',
  legacy: false,
  isDefault: true,
  problem: null,
  usedBy: ['web', 'db'],
};

const detail = {
  ...bundle,
  kernel: '/b/debian-trixie/vmlinux',
  initrd: '/b/debian-trixie/initrd.img',
  rootfs: '/b/debian-trixie/rootfs.ext4',
  modules: null,
  packages: null,
  helpers: [],
  defaults: {
    vcpus: 1,
    memoryMib: 512,
    bootArgs: 'net.ifnames=0',
    rootDiskBytes: 4 * 2 ** 30,
    workDiskBytes: 8 * 2 ** 30,
  },
  notice: null,
};

/** Notes the bodies of requests, each of which ends at once with the result. */
function noting(result: unknown) {
  const bodies: unknown[] = [];
  const note = ({ body }: { body: unknown }): Operation => {
    bodies.push(body);
    return operation();
  };
  return { bodies, note, events: { op1: [done({ result })] } };
}

describe('bundle show', () => {
  it('shows facts and what a VM gets', async () => {
    const { stdout } = await cli('bundle show debian-trixie', { showBundle: () => detail });
    assert.equal(
      stdout,
      `name        debian-trixie (default)
arch        x86_64
created     2026-01-02T03:04:05.000Z
directory   /b/debian-trixie
kernel      /b/debian-trixie/vmlinux
release     6.12.0
initrd      /b/debian-trixie/initrd.img
root disk   /b/debian-trixie/rootfs.ext4
used by     web db
processors  1
memory      512 MiB
disks       root 4 GiB, work 8 GiB
boot args   net.ifnames=0
`,
    );
  });

  it('takes a word with a slash as a directory seen from here, others as names', async () => {
    const queries: unknown[] = [];
    const showBundle = ({ query }: { query?: unknown }) => {
      queries.push(query);
      return detail;
    };
    for (const words of ['', 'trixie', './mine', '.', '..', '/b/x']) await cli(`bundle show ${words}`, { showBundle });
    assert.deepEqual(queries, [
      undefined,
      { name: 'trixie' },
      { name: '/home/someone/project/mine' },
      { name: '/home/someone/project' },
      { name: '/home/someone' },
      { name: '/b/x' },
    ]);
  });

  it('says on stderr what should be known about it', async () => {
    const notice = 'Write one: banger bundle adopt /b/x';
    const { stderr } = await cli('bundle show /b/x', { showBundle: () => ({ ...detail, notice }) });
    assert.equal(stderr, `${notice}\n`);
  });
});

describe('bundle use', () => {
  it('names the new default', async () => {
    const bodies: unknown[] = [];
    const useBundle = ({ body }: { body: unknown }) => {
      bodies.push(body);
      return bundle;
    };
    assert.equal((await cli('bundle use debian-trixie', { useBundle })).stdout, 'debian-trixie is the default now\n');
    assert.deepEqual(bodies, [{ name: 'debian-trixie' }]);
  });
});

describe('bundle verify', () => {
  const good = { field: 'arch', ok: true, detail: 'For x86_64, as this machine.' };
  const bad = { field: 'files.vmlinux', ok: false, detail: 'The checksum is 1, bundle.json says 2.' };

  it('prints each check, and is content when all are', async () => {
    const { note, bodies, events } = noting({ name: 'one', directory: '/b/one', ok: true, checks: [good] });
    const { status, stdout } = await cli('bundle verify one', { verifyBundle: note, events });
    assert.equal(status, 0);
    assert.equal(stdout, 'ok      arch: For x86_64, as this machine.\n\none is as it should be.\n');
    await cli('bundle verify', { verifyBundle: note, events });
    assert.deepEqual(bodies, [{ name: 'one' }, {}]);
  });

  it('exits with 1 when one failed, with --json too', async () => {
    const verdict = { name: 'one', directory: '/b/one', ok: false, checks: [good, bad] };
    const { note, events } = noting(verdict);
    const script = { verifyBundle: note, events };
    const { status, stdout } = await cli('bundle verify one', script);
    assert.equal(status, 1);
    assert.match(stdout, /^FAILED {2}files\.vmlinux: The checksum is 1, bundle\.json says 2\.$/m);
    assert.match(stdout, /^Checks that failed: 1$/m);
    const json = await cli('bundle verify one --json', script);
    assert.deepEqual([json.status, JSON.parse(json.stdout)], [1, verdict]);
  });
});

describe('moving bundles', () => {
  it('imports a file named from here', async () => {
    const { note, bodies, events } = noting(bundle);
    const script = { importBundle: note, events };
    const { stdout } = await cli('bundle import ../t.tar.zst --name debian-trixie --force', script);
    await cli('bundle import t.tar.zst', script);
    assert.equal(stdout, 'debian-trixie is ready in /b/debian-trixie\n');
    assert.deepEqual(bodies, [
      { source: '/home/someone/t.tar.zst', name: 'debian-trixie', force: true },
      { source: '/home/someone/project/t.tar.zst' },
    ]);
  });

  it('exports to a file named from here', async () => {
    const file = '/home/someone/project/t.tar.zst';
    const { note, bodies, events } = noting({ name: 'debian-trixie', file, sizeBytes: 3 * 2 ** 20 });
    const { stdout } = await cli('bundle export debian-trixie t.tar.zst', { exportBundle: note, events });
    assert.equal(stdout, `debian-trixie is in ${file} (3 MiB)\n`);
    assert.deepEqual(bodies, [{ name: 'debian-trixie', file }]);
  });

  it('adopts a directory named from here, slash or not', async () => {
    const { note, bodies, events } = noting({ ...bundle, directory: '/home/someone/project/mine' });
    const { stdout } = await cli('bundle adopt mine', { adoptBundle: note, events });
    assert.equal(stdout, '/home/someone/project/mine has a bundle.json now\n');
    assert.deepEqual(bodies, [{ directory: '/home/someone/project/mine' }]);
  });
});
