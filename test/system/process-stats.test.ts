import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  parseAuxiliaryVector,
  parseProcessIo,
  parseProcessStat,
  readKernelUnits,
  readProcessStats,
  readProcessTree,
} from '../../src/system/process-stats.ts';

/** A line of /proc/PID/stat as the kernel writes it; the numbers after the name are 52 fields less two. */
function statLine(name: string): string {
  return `4242 (${name}) S 7 4242 4242 0 -1 4194560 2100 0 12 0 150 25 3 4 20 0 6 0 987654 1073741824 51200 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n`;
}

async function child(t: TestContext, script: string): Promise<number> {
  const process = spawn(globalThis.process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  t.after(() => process.kill('SIGKILL'));
  await once(process.stdout, 'data');
  assert.ok(process.pid);
  return process.pid;
}

describe('a line of /proc/PID/stat', () => {
  it('gives processor time, memory, threads, start and parent', () => {
    assert.deepEqual(parseProcessStat(statLine('fcqemu')), {
      pid: 4242,
      name: 'fcqemu',
      state: 'S',
      parentPid: 7,
      cpuTicks: 175,
      threads: 6,
      startTicks: 987_654,
      rssPages: 51_200,
    });
  });

  it('is read whatever the name of the command holds', () => {
    for (const name of ['a b', 'x) S 1 2 3', '((', ') (', '', 'tab\there', 'new\nline', '(sd-pam)']) {
      const stat = parseProcessStat(statLine(name));
      assert.deepEqual([stat?.name, stat?.parentPid, stat?.cpuTicks, stat?.startTicks], [name, 7, 175, 987_654], name);
    }
  });

  it('is refused when it is cut or something else', () => {
    const cut = statLine('fcqemu').slice(0, 40);
    for (const text of ['', 'nonsense', '1 (x', ') (', '1 (x) S', cut, statLine('x').replace('987654', 'abc')]) {
      assert.equal(parseProcessStat(text), undefined, text);
    }
  });
});

describe('/proc/PID/io', () => {
  it('tells the bytes that went to and came from devices, not those of system calls', () => {
    const text =
      'rchar: 9\nwchar: 8\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 20971520\ncancelled_write_bytes: 5\n';
    assert.deepEqual(parseProcessIo(text), { readBytes: 4096, writtenBytes: 20_971_520 });
    assert.equal(parseProcessIo('read_bytes: 4096\n'), undefined);
    assert.equal(parseProcessIo(''), undefined);
  });
});

describe('the kernel’s units', () => {
  it('are read from an auxiliary vector', () => {
    const pair = (key: bigint, value: bigint) => {
      const bytes = Buffer.alloc(16);
      bytes.writeBigUInt64LE(key);
      bytes.writeBigUInt64LE(value, 8);
      return bytes;
    };
    const vector = Buffer.concat([pair(33n, 1n), pair(6n, 16_384n), pair(17n, 250n), pair(0n, 0n)]);
    assert.deepEqual(parseAuxiliaryVector(vector), { pageBytes: 16_384, ticksPerSecond: 250 });
    assert.deepEqual(parseAuxiliaryVector(Buffer.from('short')), { pageBytes: 4096, ticksPerSecond: 100 });
  });

  it('are known on this machine', async () => {
    const { pageBytes, ticksPerSecond } = await readKernelUnits();
    assert.equal(Math.log2(pageBytes) % 1, 0);
    assert.equal(ticksPerSecond, 100);
  });
});

describe('a process that lives', () => {
  it('is measured: this one agrees with what Node says of itself', async () => {
    const stats = await readProcessStats(process.pid);
    assert.ok(stats);
    const { user, system } = process.cpuUsage();
    assert.ok(Math.abs(stats.cpuMs - (user + system) / 1000) < 250, `${stats.cpuMs} ms`);
    const rss = process.memoryUsage.rss();
    assert.ok(Math.abs(stats.rssBytes - rss) < rss / 4, `${stats.rssBytes} of ${rss}`);
    assert.ok(stats.threads > 1 && stats.startTicks > 0);
    assert.ok(stats.io && stats.io.writtenBytes >= 0);
  });

  it('uses more processor time the longer it works', async (t) => {
    const pid = await child(t, 'console.log(1); for (;;);');
    const before = await readProcessStats(pid);
    await sleep(400);
    const after = await readProcessStats(pid);
    assert.ok(before && after && after.cpuMs - before.cpuMs >= 50, `${before?.cpuMs} ${after?.cpuMs}`);
  });

  it('is counted with its children and theirs', async (t) => {
    const grandchild = `require('child_process').spawn('sleep', ['30']); `;
    const inner = JSON.stringify(`${grandchild} setTimeout(() => console.log(1), 100); setInterval(() => {}, 1000)`);
    const pid = await child(
      t,
      `const c = require('child_process').spawn(process.execPath, ['-e', ${inner}]);
       c.stdout.pipe(process.stdout); process.on('exit', () => c.kill()); setInterval(() => {}, 1000)`,
    );
    const tree = await readProcessTree(pid);
    assert.equal(tree[0]?.pid, pid);
    assert.deepEqual(
      tree.slice(1).map(({ name }) => name),
      [tree[0]?.name, 'sleep'],
    );
    for (const { pid: other } of tree.slice(1)) process.kill(other, 'SIGKILL');
  });

  it('is nothing once it has ended, nor while it is a zombie', async () => {
    const ended = spawn('true', { stdio: 'ignore' });
    assert.ok(ended.pid);
    await once(ended, 'close');
    assert.equal(await readProcessStats(ended.pid), undefined);
    assert.deepEqual(await readProcessTree(ended.pid), []);
  });
});
