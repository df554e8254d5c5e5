/** Snapshots and vsock with a real Linux: memory, disks, time and an agent survive. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { paced } from '../../support/pace.ts';
import { linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { startVmm, type Vmm, waitFor } from '../support/vmm-process.ts';

describe('a snapshot of a Linux guest', { skip: linuxSkipReason(), timeout: paced(300_000) }, () => {
  it('is resumed by a clone that still has its memory and its disk', async (t) => {
    const vmm = await prepared(
      t,
      `mkdir /ram; mount -t tmpfs ram /ram; head -c 3000000 /dev/urandom > /ram/data; sum=$(sha1sum < /ram/data)
echo ready; read go; [ "$(sha1sum < /ram/data)" = "$sum" ] && echo "memory intact, disk says $(head -c 4 /dev/vda)"
echo more > /dev/vda; sync; date +%s; reboot -f`,
      { stdin: 'pipe' },
    );
    const path_on_host = await vmm.file('disk', Buffer.concat([Buffer.from('DISK'), Buffer.alloc(8188)]));
    await vmm.put('/drives/root', { drive_id: 'root', is_root_device: true, path_on_host });
    await vmm.put('/entropy', {});
    await start(vmm);
    await said(vmm, 'ready');
    await vmm.patch('/vm', { state: 'Paused' });
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await vmm.put('/snapshot/create', body);
    vmm.process.kill('SIGTERM');
    await vmm.ended;

    for (let clone = 0; clone < 2; clone++) {
      copyFileSync(path_on_host, `${path_on_host}.${clone}`);
      const next = await startVmm(t, { stdin: 'pipe' });
      const begin = performance.now();
      await next.put('/snapshot/load', { ...body, resume_vm: true });
      assert.ok(performance.now() - begin < 5000, 'the restore took longer than a boot');
      next.process.stdin?.write('\n');
      const end = await next.ended;
      assert.equal(end.code, 0);
      assert.match(end.stdout, clone === 0 ? /memory intact, disk says DISK/ : /memory intact/);
    }
  });
});

describe('two clones of one Linux guest', { skip: linuxSkipReason(), timeout: paced(300_000) }, () => {
  it('run at the same time, each with its own memory, and can be cloned again', async (t) => {
    const vmm = await prepared(
      t,
      `mkdir /ram; mount -t tmpfs ram /ram; echo original > /ram/name; echo ready
while read line; do
  case $line in
    name=*) echo "\${line#name=}" > /ram/name;;
    stop) reboot -f;;
  esac
  echo "I am $(cat /ram/name), counting $((i += 1))"
done`,
      { stdin: 'pipe' },
    );
    await start(vmm);
    await said(vmm, 'ready');
    const snapshot = async (source: Vmm, name: string) => {
      const body = { snapshot_path: join(vmm.dir, `${name}.state`), mem_file_path: join(vmm.dir, `${name}.memory`) };
      await source.patch('/vm', { state: 'Paused' });
      await source.put('/snapshot/create', body);
      return body;
    };
    const first = await snapshot(vmm, 'first');
    const load = async (body: object) => {
      const clone = await startVmm(t, { stdin: 'pipe' });
      await clone.put('/snapshot/load', { ...body, resume_vm: true });
      return clone;
    };
    const tell = async (clone: Vmm, line: string, answer: string) => {
      clone.process.stdin?.write(`${line}\n`);
      await said(clone, answer);
    };
    const [one, two] = await Promise.all([load(first), load(first)]);
    await Promise.all([tell(one, 'name=one', 'I am one, counting 1'), tell(two, 'name=two', 'I am two, counting 1')]);
    await tell(one, '', 'I am one, counting 2');

    // of the second generation: taken of a clone, while the other one runs on
    const second = await snapshot(one, 'second');
    const grandchild = await load(second);
    await tell(grandchild, '', 'I am one, counting 3');
    await tell(two, '', 'I am two, counting 2');
    await one.patch('/vm', { state: 'Resumed' });
    await tell(one, 'name=changed', 'I am changed, counting 3');
    await tell(grandchild, '', 'I am one, counting 4');
    await vmm.patch('/vm', { state: 'Resumed' });
    await tell(vmm, '', 'I am original, counting 1');
    for (const each of [vmm, one, two, grandchild]) {
      each.process.stdin?.write('stop\n');
      assert.equal((await each.ended).code, 0);
    }
  });
});

/**
 * An agent in shell: says hello, accepts every stream, and answers its first data with the same bytes. Frames
 * are read byte by byte because nothing better comes with busybox.
 */
const SHELL_AGENT = `
le() { printf "\\\\$(printf %o $(($1 & 255)))\\\\$(printf %o $((($1 >> 8) & 255)))\\\\$(printf %o $((($1 >> 16) & 255)))\\\\$(printf %o $((($1 >> 24) & 255)))"; }
frame() { le $1; le $2; le $3; le $4; }
for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = fcqemu.vsock ] && port=/dev/$(basename $p); done
exec 5<>$port
frame 1 0 0 0 >&5
echo "agent ready"
while :; do
  set -- $(dd bs=1 count=16 <&5 2>/dev/null | hexdump -v -e '4/4 "%u "')
  [ -n "$1" ] || continue
  case $1 in
    1) echo "cid $3";;
    2) if [ $3 = 7 ]; then frame 3 $2 0 0 >&5; else frame 4 $2 0 0 >&5; fi;;
    8) frame 1 0 0 0 >&5; echo "restored";;
    5) data=$(dd bs=1 count=$4 <&5 2>/dev/null); { frame 5 $2 0 $4; printf %s "$data"; frame 6 $2 0 0; } >&5;;
  esac
done`;

describe('vsock with an agent in a Linux guest', { skip: linuxSkipReason(), timeout: paced(300_000) }, () => {
  it('connects to the port the agent serves and to no other', async (t) => {
    const vmm = await prepared(t, SHELL_AGENT);
    const path = join(vmm.dir, 'v.sock');
    await vmm.put('/vsock', { guest_cid: 77, uds_path: path });
    await start(vmm);
    await said(vmm, 'cid 77');
    const ask = async (port: number) => {
      const socket = createConnection({ path, allowHalfOpen: true });
      await once(socket, 'connect');
      socket.end(`CONNECT ${port}\nhello agent`);
      return await text(socket);
    };
    assert.equal(await ask(7), 'OK 1073741824\nhello agent');
    assert.equal(await ask(8), '');
    await delay(50);
    await waitFor(() => vmm.process.exitCode === null, 'the machine to live on');
  });

  it('goes on with the agent of a restored machine, on another socket', async (t) => {
    const vmm = await prepared(t, SHELL_AGENT);
    await vmm.put('/vsock', { guest_cid: 77, uds_path: join(vmm.dir, 'v.sock') });
    await start(vmm);
    await said(vmm, 'cid 77');
    await vmm.patch('/vm', { state: 'Paused' });
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await vmm.put('/snapshot/create', body);
    const clone = await startVmm(t);
    const path = join(clone.dir, 'other.sock');
    await clone.put('/snapshot/load', { ...body, resume_vm: true, vsock_override: { uds_path: path } });
    await said(clone, 'cid 77');
    assert.match(clone.output(), /restored/);
    const socket = createConnection({ path, allowHalfOpen: true });
    await once(socket, 'connect');
    socket.end('CONNECT 7\nhello again');
    assert.equal(await text(socket), 'OK 1073741824\nhello again');
  });
});
