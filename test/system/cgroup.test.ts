import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { enterCgroup, findCgroupHome, makeCgroup, removeCgroup } from '../../src/system/cgroup.ts';
import { tempDir } from '../support/temp-dir.ts';

/** A mounted hierarchy without its kernel. */
async function hierarchy(t: TestContext, controllers: string, enabled = ''): Promise<string> {
  const root = await tempDir(t);
  await writeFile(join(root, 'cgroup.controllers'), controllers);
  await writeFile(join(root, 'cgroup.subtree_control'), enabled);
  return root;
}

/** The hierarchy of version 2 on this machine, with or without controllers. */
const real = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'].find((path) => existsSync(join(path, 'cgroup.procs')));
const skip = (process.getuid?.() !== 0 && 'root makes groups') || (!real && 'there is no cgroup v2 here');

/** A place with controllers on this machine: most have one, and test/host/control-groups.test.ts runs this file where there is one. */
const home = await findCgroupHome(process.getuid?.() ?? 1000, `banger-test-limits-${process.pid}`);
const noControllers = home.directory === undefined && home.why;
const MIB = 2 ** 20;

/** A number of a file with lines of `name number`. */
async function counted(path: string, name: string): Promise<number> {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await readFile(path, 'utf8'))?.[1]);
}

describe('the place for groups of VMs', () => {
  it('has limits for memory and tasks', async (t) => {
    const root = await hierarchy(t, 'cpuset cpu io memory pids\n', 'cpu\n');
    await mkdir(join(root, 'banger'));
    await writeFile(join(root, 'banger/cgroup.subtree_control'), 'memory pids\n');
    assert.deepEqual(await findCgroupHome(0, 'banger', root), { directory: join(root, 'banger') });
    assert.equal(await readFile(join(root, 'cgroup.subtree_control'), 'utf8'), '+memory +pids');
    assert.equal(await readFile(join(root, 'banger/cgroup.subtree_control'), 'utf8'), 'memory pids\n', 'was so');
  });

  it('is missing for a reason', async (t) => {
    const why = async (uid: number, root: string) => {
      const home = await findCgroupHome(uid, 'banger', root);
      assert.equal(home.directory, undefined);
      return 'why' in home ? home.why : '';
    };
    assert.match(await why(1000, '/sys/fs/cgroup'), /only a daemon of root/);
    assert.match(await why(0, join(await tempDir(t), 'none')), /no cgroup v2/);
    assert.match(await why(0, await hierarchy(t, 'cpu io\n')), /no memory and no pids controller/);
    assert.match(await why(0, await hierarchy(t, 'cpu memory\n')), /no pids controller/);
    // no kernel makes the files of a group here
    assert.match(await why(0, await hierarchy(t, 'memory pids\n')), /cannot be made.*ENOENT/);
  });
});

describe('the group of a VM', () => {
  it('gets its limits', async (t) => {
    const path = join(await tempDir(t), '5f3a9c01');
    await makeCgroup(path, { memoryBytes: 2 ** 30, tasks: 99 });
    assert.equal(await readFile(join(path, 'memory.max'), 'utf8'), String(2 ** 30));
    assert.equal(await readFile(join(path, 'pids.max'), 'utf8'), '99');
  });

  it('takes a process with its children, and ends them when it is removed', { skip }, async () => {
    const path = join(real ?? '', `banger-test-${process.pid}`);
    await mkdir(path);
    after(() => removeCgroup(path));
    const child = spawn('sh', ['-c', 'read _; sleep 100 & echo started; wait'], { stdio: ['pipe', 'pipe', 'ignore'] });
    await enterCgroup(path, child.pid ?? 0);
    child.stdin.end('\n');
    await once(child.stdout, 'data');
    const inside = (await readFile(join(path, 'cgroup.procs'), 'utf8')).trim().split('\n').map(Number);
    assert.equal(inside.length, 2);
    assert.ok(inside.includes(child.pid ?? 0));
    await Promise.all([once(child, 'exit'), removeCgroup(path)]);
    assert.equal(existsSync(path), false);
    await removeCgroup(path);
    await mkdir(path);
    await enterCgroup(path, child.pid ?? 0);
  });
});

describe('a group that has limits', { skip: noControllers }, () => {
  const directory = home.directory ?? '';
  after(() => removeCgroup(directory));

  /** A shell in a group, that begins when it is in there. */
  async function shellIn(path: string, script: string) {
    const child = spawn('sh', ['-c', `read _; ${script}`], { stdio: ['pipe', 'ignore', 'ignore'] });
    const ended = once(child, 'exit');
    await enterCgroup(path, child.pid ?? 0);
    child.stdin.end('\n');
    return { child, ended };
  }

  it('takes no more memory, and is ended as a whole', async (t) => {
    const path = join(directory, 'memory');
    t.after(() => removeCgroup(path));
    await makeCgroup(path, { memoryBytes: 32 * MIB, tasks: 50 });
    assert.equal((await readFile(join(path, 'memory.max'), 'utf8')).trim(), String(32 * MIB));
    await writeFile(join(path, 'memory.swap.max'), '0').catch(() => {});
    // holds what it reads until there is a line
    const { ended } = await shellIn(path, 'sleep 100 & tail -n 1 /dev/zero; sleep 100');
    assert.equal((await ended)[1], 'SIGKILL', 'the shell took nothing, but is of the same VM');
    assert.ok((await counted(join(path, 'memory.events'), 'oom_kill')) > 0);
    while ((await readFile(join(path, 'cgroup.procs'), 'utf8')).trim() !== '') await setImmediate();
  });

  it('begins no more processes', async (t) => {
    const path = join(directory, 'tasks');
    t.after(() => removeCgroup(path));
    await makeCgroup(path, { memoryBytes: 256 * MIB, tasks: 8 });
    const { ended } = await shellIn(path, 'for each in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done; wait');
    // a shell that cannot fork gives up; one that can waits for its children
    await ended;
    assert.ok((await counted(join(path, 'pids.events'), 'max')) > 0);
    assert.ok(Number(await readFile(join(path, 'pids.current'), 'utf8')) < 8);
  });
});
