/** What commands say of actions on VMs that the daemon carried out. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { cli, done, operation, vm } from './cli.ts';

describe('the other actions on VMs', () => {
  it('tell what they did', async () => {
    const script = {
      stopVm: () => operation(),
      killVm: () => operation(),
      restartVm: () => operation(),
      deleteVm: () => operation(),
      events: { op1: [done({ result: vm('web') })] },
    };
    assert.match((await cli('stop web', script)).stdout, /^web is stopped \(\d+ ms\)\n$/);
    assert.equal((await cli('kill web', script)).stdout, 'web is stopped, hard\n');
    assert.match((await cli('restart web', script)).stdout, /^web is running again at 172\.30\.0\.2 /);
    assert.equal((await cli('rm web', script)).stdout, 'web is deleted\n');
    assert.deepEqual(JSON.parse((await cli('rm web --json', script)).stdout), [
      { name: 'web', deleted: true, keptForMs: 0, keptWorkDisk: null, snapshots: 0 },
    ]);
  });

  it('say what becomes of a work disk that was never made', async () => {
    const disk = { vm: 'web', name: null, mount: '/', allocatedBytes: 0 };
    const root = { ...disk, role: 'root', path: '/s/root.ext4', apparentBytes: 8 * 2 ** 30 };
    const work = { ...disk, role: 'work', path: '/s/work.ext4', apparentBytes: 20 * 2 ** 30 };
    const said = async (words: string, result: unknown) => {
      const bodies: unknown[] = [];
      const resizeDisks = ({ body }: { body: unknown }) => {
        bodies.push(body);
        return operation();
      };
      const { status, stdout } = await cli(words, { resizeDisks, events: { op1: [done({ result })] } });
      assert.equal(status, 0);
      return { bodies, stdout };
    };
    assert.deepEqual(await said('disk resize web --work 20G', [root]), {
      bodies: [{ workBytes: 20 * 2 ** 30, online: false }],
      stdout: 'The root disk of web has 8 GiB\nThe work disk of web will have 20 GiB: its first start makes it\n',
    });
    const both = 'The root disk of web has 8 GiB\nThe work disk of web has 20 GiB\n';
    assert.equal((await said('disk resize web --work 20G', [root, work])).stdout, both);
    assert.equal((await said('disk resize web --root 8G', [root])).stdout, 'The root disk of web has 8 GiB\n');
  });

  it('pass --force and --timeout on', async () => {
    const seen: unknown[] = [];
    const note = (args: unknown) => {
      seen.push(args);
      return operation();
    };
    const script = { stopVm: note, deleteVm: note, events: { op1: [done({ result: vm('web') })] } };
    await cli('rm --force web', script);
    await cli('rm web', script);
    await cli('stop web --timeout 1m30s', script);
    assert.deepEqual(seen, [
      { params: { name: 'web' }, query: { force: true } },
      { params: { name: 'web' } },
      { params: { name: 'web' }, body: { timeoutMs: 90_000 } },
    ]);
  });

  it('build a bundle in a directory named from here', async () => {
    const bodies: unknown[] = [];
    const bundle = { name: 'debian-trixie', directory: '/home/someone/project/b' };
    const { stdout } = await cli('bundle build --suite trixie --output ./b --size 3G --force', {
      buildBundle: ({ body }) => {
        bodies.push(body);
        return operation();
      },
      events: { op1: [done({ result: bundle })] },
    });
    assert.deepEqual(bodies, [
      { suite: 'trixie', output: '/home/someone/project/b', rootDiskBytes: 3 * 2 ** 30, force: true },
    ]);
    assert.equal(stdout, 'debian-trixie is ready in /home/someone/project/b\n');
  });
});
