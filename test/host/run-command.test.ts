/** One command by `banger run`: in a VM that stays, and in one of its own that is gone whatever happens to its client. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const SMALL = ['--memory', '256M', '--work-disk', 'none'];

describe('run with a command', { skip: hostSkip() }, () => {
  let host: TestHost;
  let work: string;

  before(async () => {
    host = await TestHost.create({ lean: true });
    work = await mkdtemp('/tmp/bt-run-');
    await host.daemon();
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await rm(work, { recursive: true, force: true });
  });

  it('makes the VM, then finds it up and says nothing of its own', LIMIT, async () => {
    const first = await host.run(['run', 'web', ...SMALL, '--', 'sh', '-c', 'hostname; exit 7']);
    assert.deepEqual([first.status, first.stdout], [7, 'web\n'], first.stderr);
    const second = await host.run(['run', 'web', '-e', 'A=b c', '--', 'sh', '-c', 'echo "$A"; cat; echo err >&2'], {
      input: 'input\n',
    });
    assert.deepEqual([second.status, second.stdout, second.stderr], [0, 'b c\ninput\n', 'err\n']);
    const stopped = host.begin(['run', 'web', '--', 'sh', '-c', 'echo here; exec sleep 60']);
    await stopped.says(/here/);
    stopped.child.kill('SIGTERM');
    assert.equal((await stopped.ended).status, 128 + 15);
    await host.ok('rm', '--force', '--now', 'web');
  });

  it('in a VM of its own takes a directory in and brings one out, and leaves no VM', LIMIT, async () => {
    await mkdir(join(work, 'in'));
    await writeFile(join(work, 'in/file'), 'from here');
    const make = 'mkdir out && tr a-z A-Z < file > out/file && hostname && exit 3';
    const copies = ['--copy-in', join(work, 'in'), '--copy-out', `out:${work}/out`];
    const ran = await host.run(['run', '--rm', ...SMALL, ...copies, '--', 'sh', '-c', make]);
    assert.equal(ran.status, 3, ran.stderr);
    assert.match(ran.stdout, /^run-[0-9a-f]{8}\n$/);
    assert.equal(await readFile(join(work, 'out/file'), 'utf8'), 'FROM HERE');
    assert.deepEqual((await readdir(work)).sort(), ['in', 'out']);
    assert.deepEqual([await host.vms(), JSON.parse(await host.ok('trash', 'list', '--json'))], [[], []]);
  });

  it('in a VM of its own is over when its client is killed, and when the daemon is', LIMIT, async () => {
    const killed = host.begin(['run', '--rm', ...SMALL, '--', 'sleep', '600']);
    await until('a guest boots', async () => (await host.vms())[0]?.state === 'starting');
    killed.child.kill('SIGKILL');
    await until('the VM is gone', async () => (await host.vms()).length === 0);
    await host.assertQuiet('of the VM whose client was killed');

    const cut = host.begin(['run', '--rm', ...SMALL, '--', 'sh', '-c', 'echo up; sleep 600']);
    await cut.says(/up/);
    const [vm] = await host.vms();
    assert.deepEqual(vm?.temporary, { holder: cut.child.pid });
    await host.killDaemon();
    assert.equal((await cut.ended).status, 3);
    assert.deepEqual(await host.vms(), [], 'the client began a daemon to have it deleted');
    await host.assertQuiet('of the VM whose daemon was killed');
  });
});
