import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { renderUnit } from '../../src/cli/shared/systemd-unit.ts';
import { tempDir } from '../support/temp-dir.ts';
import { cli, done, operation, vm } from './cli.ts';

describe('vm set', () => {
  const changes = [
    { setting: 'memoryMib', from: 512, to: 2048, applies: 'at-next-start' },
    { setting: 'nat', from: true, to: false, applies: 'now' },
  ];

  it('says what was, what is, and from when it counts', async () => {
    const bodies: unknown[] = [];
    const script = {
      setVm: ({ body }: { body: unknown }) => {
        bodies.push(body);
        return operation();
      },
      events: { op1: [done({ result: { vm: vm('web'), changes } })] },
    };
    const { stdout, stderr } = await cli('vm set web --memory 2G --no-nat --restart always --autostart', script);
    assert.equal(
      stdout,
      `SETTING              WAS      IS     COUNTS
memory               512 MiB  2 GiB  at the next start
reaches the outside  yes      no     now
`,
    );
    assert.match(stderr, /banger restart web/);
    assert.match(stderr, /banger daemon install/);
    await cli('set web --nat=false', script);
    await cli('set web --nat=true --autostart=no', script);
    assert.deepEqual(bodies, [
      { memoryMib: 2048, nat: false, autostart: true, restartPolicy: 'always' },
      { nat: false },
      { nat: true, autostart: false },
    ]);
  });

  it('sends whoever wants another disk to the command for that, and refuses other policies', async () => {
    const disk = await cli('vm set web --disk 20G', {});
    assert.deepEqual([disk.status, /banger disk resize web --root 8G/.test(disk.stderr)], [2, true]);
    const policy = await cli('vm set web --restart sometimes', {});
    assert.deepEqual([policy.status, /on-failure/.test(policy.stderr)], [2, true]);
  });
});

describe('a VM that is suspended when idle', () => {
  it('is made so, and kept awake for a while', async () => {
    const asked: unknown[] = [];
    const script = {
      setVm: ({ body }: { body: unknown }) => {
        asked.push(body);
        return operation();
      },
      awakeVm: ({ body }: { body: unknown }) => {
        asked.push(body);
        return vm('web');
      },
      events: {
        op1: [
          done({
            result: {
              vm: vm('web'),
              changes: [{ setting: 'idleSuspendMs', from: 0, to: 1_800_000, applies: 'now' }],
            },
          }),
        ],
      },
    };
    const { stdout, stderr } = await cli('set web --idle-suspend 30m', script);
    assert.match(stdout, /^suspended when idle +no +after 30 m +now$/m);
    assert.match(stderr, /its timers do not fire/);
    await cli('set web --idle-suspend off', script);
    const awake = await cli('awake web --for 2h', script);
    assert.equal(awake.stdout, 'web stays awake for 2 h\n');
    assert.match(awake.stderr, /banger set web --idle-suspend 30m/);
    assert.deepEqual(asked, [{ idleSuspendMs: 1_800_000 }, { idleSuspendMs: 0 }, { forMs: 7_200_000 }]);
    assert.equal((await cli('set web --idle-suspend soon', script)).status, 2);
    assert.equal((await cli('awake web', script)).status, 2);
  });
});

describe('a VM with a problem', () => {
  it('is marked in the list, and the problem is told beside it', async () => {
    const web = vm('web', { problem: 'Its VMM is halted. Let it go on with: kill -CONT 7' });
    const { stdout, stderr } = await cli('ls', { listVms: () => [web, vm('db')] });
    assert.match(stdout, /^web +running \(!\) /m);
    assert.match(stdout, /^db +running +172/m);
    assert.match(stderr, /web: Its VMM is halted/);
  });
});

describe('rm', () => {
  it('says how long what it deleted can be had back', async () => {
    const seen: unknown[] = [];
    const script = {
      deleteVm: (args: unknown) => {
        seen.push(args);
        return operation();
      },
      events: { op1: [done({ result: { name: 'web', id: '0a1b2c3d', keptForMs: 86_400_000 } })] },
    };
    const { stderr } = await cli('rm web', script);
    assert.match(stderr, /For 1 d it can be had back with: banger vm undelete web/);
    await cli('rm --now web', script);
    assert.deepEqual(seen, [{ params: { name: 'web' } }, { params: { name: 'web' }, query: { now: true } }]);
  });

  it('is undone by undelete, which tells of another address', async () => {
    const undeleteVm = () => ({ vm: vm('old'), lostAddress: '172.30.0.9' });
    const { stdout, stderr } = await cli('undelete web --as old', { undeleteVm });
    assert.equal(stdout, 'old is back; start it with: banger start old\n');
    assert.match(stderr, /another VM has 172\.30\.0\.9 by now: old got 172\.30\.0\.2/);
  });
});

describe('gc', () => {
  it('says what would go, what stays, and whose it was', async () => {
    const found = [
      { kind: 'tap', name: 'bgr-mine', whose: 'not ours', verdict: 'leave', freed: false },
      { kind: 'directory', name: '/s/vms/0a1b2c3d', whose: 'VM 0a1b2c3d', verdict: 'ask', freed: false },
      { kind: 'socket', name: '/r/vmm/0a1b2c3d.sock', whose: 'a VMM of web', verdict: 'free', freed: false },
    ];
    const script = { collectGarbage: () => operation(), events: { op1: [done({ result: found })] } };
    const { stdout, stderr } = await cli('gc --dry-run', script);
    assert.match(stdout, /^tap +left alone +bgr-mine/m);
    assert.match(stdout, /^directory +left alone/m);
    assert.match(stdout, /^socket +would be freed/m);
    assert.match(stderr, /banger gc --disks/);
  });
});

describe('wait', () => {
  it('passes on what for and how long', async () => {
    const seen: unknown[] = [];
    const waitVm = (args: unknown) => {
      seen.push(args);
      return vm('web');
    };
    assert.equal((await cli('wait web --for port=80 --timeout 2m', { waitVm })).stdout, 'web: port=80\n');
    await cli('wait web', { waitVm });
    assert.deepEqual(seen, [
      { params: { name: 'web' }, query: { for: 'port=80', timeoutMs: 120_000 } },
      { params: { name: 'web' }, query: {} },
    ]);
  });
});

describe('daemon install', () => {
  it('writes a unit under which VMs outlive the daemon, prints it, and removes it again', async (t) => {
    const home = await tempDir(t);
    await mkdir(join(home, 'config'));
    const env = { HOME: home, XDG_CONFIG_HOME: join(home, 'config'), BANGER_HOME: '/srv/b 1%' };
    const { stdout, stderr } = await cli('daemon install --user', {}, { env });
    const file = join(home, 'config/systemd/user/bangerd.service');
    const text = await readFile(file, 'utf8');
    assert.ok(stdout.includes(text.trimEnd()) && stdout.includes(file));
    assert.match(stderr, /systemctl --user enable bangerd/);
    assert.match(text, /^KillMode=process$/m);
    assert.match(text, /^ExecStart=\/usr\/bin\/banger daemon run$/m);
    assert.match(text, /^Environment="BANGER_HOME=\/srv\/b 1%%"$/m);
    assert.match((await cli('daemon install --user --undo', {}, { env })).stdout, /^Removed /);
    await assert.rejects(readFile(file), /ENOENT/);
    assert.match((await cli('daemon install --user --undo', {}, { env })).stdout, /^There is no /);
  });

  it('quotes what means something to systemd', () => {
    const unit = renderUnit(['/opt/a b/$x'], { BANGER_HOME: '/h"$y\\z' }, false);
    assert.match(unit, /^ExecStart="\/opt\/a b\/\$\$x" daemon run$/m);
    assert.match(unit, /^Environment="BANGER_HOME=\/h\\"\$y\\\\z"$/m);
    assert.match(unit, /^WantedBy=multi-user\.target$/m);
  });
});
