/** A network namespace with a tap, for guests whose packets shall meet nothing else. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import type { TestContext } from 'node:test';

/** The host's address on the tap; the guest's is the next one. */
export const HOST_ADDRESS = '192.0.2.1';
export const GUEST_ADDRESS = '192.0.2.2';

/** Guest commands that bring its interface up. */
export const GUEST_NETWORK = `ip addr add ${GUEST_ADDRESS}/30 dev eth0; ip link set eth0 up`;

let created = 0;

/** Why there can be no tap here; false when there can. */
export function tapSkipReason(): string | false {
  if (process.getuid?.() !== 0) return 'taps and network namespaces need root';
  return spawnSync('ip', ['-V']).error ? 'the program ip is not installed' : false;
}

/**
 * Makes a namespace, which is removed after the test.
 * @param taps by name, with what `ip tuntap` is told about them
 * @returns the command in front of programs that shall run there
 */
export function namespaceWith(t: Pick<TestContext, 'after'>, taps: Record<string, string>): string[] {
  const namespace = `fcqemu-${process.pid}-${created++}`;
  const ip = (...args: string[]) => {
    const { status, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  };
  ip('netns', 'add', namespace);
  t.after(() => spawnSync('ip', ['netns', 'delete', namespace]));
  ip('-n', namespace, 'link', 'set', 'lo', 'up');
  for (const [name, options] of Object.entries(taps)) {
    ip('-n', namespace, 'tuntap', 'add', name, ...options.split(' '));
    ip('-n', namespace, 'link', 'set', name, 'up');
  }
  return ['ip', 'netns', 'exec', namespace];
}

/**
 * Makes `tap0` in a namespace of its own, which is removed after the test.
 * @returns the command in front of programs that shall run there
 */
export function tapNamespace(t: Pick<TestContext, 'after'>, mtu = 1500): string[] {
  const namespace = `fcqemu-${process.pid}-${created++}`;
  const ip = (...args: string[]) => {
    const { status, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  };
  ip('netns', 'add', namespace);
  t.after(() => spawnSync('ip', ['netns', 'delete', namespace]));
  ip('-n', namespace, 'tuntap', 'add', 'tap0', 'mode', 'tap');
  ip('-n', namespace, 'addr', 'add', `${HOST_ADDRESS}/30`, 'dev', 'tap0');
  ip('-n', namespace, 'link', 'set', 'tap0', 'mtu', String(mtu), 'up');
  ip('-n', namespace, 'link', 'set', 'lo', 'up');
  return ['ip', 'netns', 'exec', namespace];
}
