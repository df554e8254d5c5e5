import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type Listener, parseListeners, reachOf } from '../../src/guest/listeners.ts';
import { parseMeminfo } from '../../src/guest/meminfo.ts';

const listener = (address: string, port: number, ...processes: Listener['processes']): Listener => ({
  address,
  port,
  processes,
});

describe('what `ss -Hltnp` prints', () => {
  it('is read with addresses of both families and the processes', () => {
    const text = `LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=301,fd=3))
LISTEN 0      4096   127.0.0.53%lo:53        0.0.0.0:*    users:(("systemd-resolve",pid=9,fd=14))
LISTEN 0      511                *:8080            *:*    users:(("nginx",pid=7,fd=6),("nginx",pid=8,fd=6),("nginx",pid=7,fd=8))
LISTEN 0      128             [::]:22           [::]:*    users:(("sshd",pid=301,fd=4))
LISTEN 0      244            [::1]:5432         [::]:*
`;
    assert.deepEqual(parseListeners(text), [
      listener('0.0.0.0', 22, { name: 'sshd', pid: 301 }),
      listener('127.0.0.53', 53, { name: 'systemd-resolve', pid: 9 }),
      listener('*', 8080, { name: 'nginx', pid: 7 }, { name: 'nginx', pid: 8 }),
      listener('::', 22, { name: 'sshd', pid: 301 }),
      listener('::1', 5432),
    ]);
  });

  it('is read whatever a process calls itself, and shown without control characters', () => {
    const named = (name: string) => `LISTEN 0 5 0.0.0.0:80 0.0.0.0:* users:(("${name}",pid=5,fd=3))`;
    const names = ['a b', 'x",pid', '((', 'tmux: server'].map((name) => parseListeners(named(name))[0]?.processes);
    assert.deepEqual(
      names,
      ['a b', 'x",pid', '((', 'tmux: server'].map((name) => [{ name, pid: 5 }]),
    );
    assert.deepEqual(parseListeners(named('\u001b[2Jü'))[0]?.processes, [{ name: '?[2J?', pid: 5 }]);
  });
});

describe('the kernel’s tables', () => {
  it('are read where there is no `ss`; only what listens counts', () => {
    const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000
   1: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000000000000000
   2: 02001EAC:0016 01001EAC:C350 01 00000000:00000000 00:00000000 00000000     0        0 1236 1 0000000000000000
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0
   1: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0
   2: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0
   3: B80D0120000000000000000001000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0
`;
    assert.deepEqual(parseListeners(text), [
      listener('0.0.0.0', 22),
      listener('127.0.0.1', 9090),
      listener('::', 80),
      listener('::1', 5432),
      listener('::ffff:127.0.0.1', 8080),
      listener('2001:db8::1', 8081),
    ]);
  });

  it('and nonsense never make the parser fail', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'LISTEN 0:[]*%.\n(",)=pid') })),
        (text) => {
          for (const { port } of parseListeners(text)) assert.ok(port > 0 && port < 65_536);
        },
      ),
    );
    assert.deepEqual(parseListeners('LISTEN 0 5 0.0.0.0:99999 0.0.0.0:*\nLISTEN 0 5 0.0.0.0:0 0.0.0.0:*'), []);
  });
});

describe('the reach of a listener', () => {
  const cases: [address: string, reach: string][] = [
    ['0.0.0.0', 'network'],
    ['*', 'network'],
    ['::', 'network'],
    ['172.30.0.2', 'network'],
    ['::ffff:172.30.0.2', 'network'],
    ['127.0.0.1', 'loopback'],
    ['127.0.0.53', 'loopback'],
    ['::1', 'loopback'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['172.17.0.1', 'other'],
    ['fe80::1', 'other'],
  ];
  for (const [address, reach] of cases) {
    it(`on ${address} is ${reach}`, () => assert.equal(reachOf(address, '172.30.0.2'), reach));
  }
});

describe('a guest’s meminfo', () => {
  it('gives what is used and what there is', () => {
    const text =
      'MemTotal:         482120 kB\nMemFree:          300000 kB\nMemAvailable:     382120 kB\nBuffers: 1 kB\n';
    assert.deepEqual(parseMeminfo(text), { totalBytes: 482_120 * 1024, usedBytes: 100_000 * 1024 });
  });

  it('is nothing when a field is missing or cannot be', () => {
    const wrong = [
      '',
      'MemTotal: 5 kB\n',
      'MemAvailable: 5 kB\n',
      'MemTotal: 5 kB\nMemAvailable: 6 kB\n',
      'MemTotal: 0 kB\nMemAvailable: 0 kB\n',
      'MemTotal: 99999999999999999999 kB\nMemAvailable: 1 kB\n',
    ];
    for (const text of wrong) assert.equal(parseMeminfo(text), undefined, text);
  });
});
