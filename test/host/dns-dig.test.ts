/** The server as dig of Debian's bind9-dnsutils sees it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { DnsServer } from '../../src/dns/server.ts';
import { askUdp } from '../dns/support/clients.ts';
import { debianPackage } from '../dns/support/debian-packages.ts';
import { exampleZone, query } from '../dns/support/packets.ts';

const run = promisify(execFile);
const LONG_ZONE = `${'a'.repeat(60)}.${'b'.repeat(60)}.${'c'.repeat(60)}.vm`;
const LONG_NAME = `${'n'.repeat(55)}.${LONG_ZONE}`;

const unpacked = await debianPackage('bind9-dnsutils', 'dig').catch((error: Error) => error.message);
const skip = typeof unpacked === 'string' ? unpacked : false;

describe('dig', { skip }, () => {
  let server: DnsServer;
  let longServer: DnsServer;

  before(async () => {
    server = new DnsServer({ zone: exampleZone(), address: '127.0.0.1', port: 0 });
    longServer = new DnsServer({ zone: exampleZone({ zone: LONG_ZONE }), address: '127.0.0.1', port: 0 });
    await server.start();
    await longServer.start();
  });
  after(async () => {
    await server.stop();
    await longServer.stop();
  });

  async function dig(...args: string[]): Promise<string> {
    return await digAt(server, ...args);
  }

  async function digAt(target: DnsServer, ...args: string[]): Promise<string> {
    assert.ok(typeof unpacked === 'object');
    const fixed = ['-p', String(target.status.port), '@127.0.0.1', '+tries=1', '+time=3'];
    const env = { PATH: unpacked.path, LD_LIBRARY_PATH: unpacked.libraries, HOME: '/nonexistent' };
    return (await run('dig', [...fixed, ...args], { env })).stdout;
  }

  /** The answer section as words, and what the header says. */
  function parse(output: string): { status: string; flags: string; answers: string[]; warnings: string[] } {
    const section = /;; ANSWER SECTION:\n([\s\S]*?)\n\n/.exec(output)?.[1] ?? '';
    return {
      status: /status: (\w+)/.exec(output)?.[1] ?? 'no header',
      flags: /;; flags: ([^;]*);/.exec(output)?.[1] ?? '',
      answers: section
        .split('\n')
        .filter(Boolean)
        .map((line) => line.split(/\s+/).join(' ')),
      // dig warns of ignored bytes, bad cookies, wrong ids and the like
      warnings: output
        .split('\n')
        .filter((line) => /^;; (Warning|WARNING|Got bad|Truncated)/.test(line) && !/recursion/.test(line)),
    };
  }

  it('finds a VM by UDP and by TCP, with and without EDNS', async () => {
    for (const options of [
      ['+notcp'],
      ['+tcp'],
      ['+noedns'],
      ['+tcp', '+noedns'],
      ['+bufsize=512'],
      ['+dnssec'],
      ['+cookie'],
    ]) {
      const { status, flags, answers, warnings } = parse(await dig(...options, 'WeB.vm', 'A'));
      assert.equal(status, 'NOERROR');
      assert.equal(flags, 'qr aa rd');
      assert.deepEqual(answers, ['WeB.vm. 5 IN A 172.30.0.2']);
      assert.deepEqual(warnings, []);
    }
  });

  it('finds names by -x', async () => {
    assert.equal(await dig('+short', '-x', '172.30.1.3'), 'db.vm.\n');
    assert.equal(await dig('+short', '-x', 'fd42::2'), 'web.vm.\n');
    assert.equal(parse(await dig('-x', '172.30.9.9')).status, 'NXDOMAIN');
    assert.equal(parse(await dig('-x', '192.0.2.1')).status, 'REFUSED');
  });

  it('sees the SOA where there is nothing else', async () => {
    for (const question of [
      ['nobody.vm', 'A'],
      ['db.vm', 'AAAA'],
      ['vm', 'TXT'],
    ]) {
      const output = await dig(...question);
      assert.match(
        output,
        /;; AUTHORITY SECTION:\nvm\.\s+1\s+IN\s+SOA\s+_ns\.vm\. hostmaster\.vm\. \d+ 3600 600 86400 1\n/,
      );
      assert.match(output, /flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1/);
    }
  });

  it('gets BADVERS and the version spoken for a later EDNS', async () => {
    const output = await dig('+edns=1', '+noednsnegotiation', 'web.vm');
    assert.match(output, /status: BADVERS/);
    assert.match(output, /EDNS: version: 0,/);
    // with negotiation it comes back with version 0 by itself
    assert.deepEqual(parse(await dig('+edns=1', 'web.vm')).answers, ['web.vm. 5 IN A 172.30.0.2']);
  });

  it('is told by TC to come back by TCP, and does', async () => {
    const cut = await digAt(longServer, '+noedns', '+ignore', LONG_NAME);
    assert.match(cut, /flags: qr aa tc rd; QUERY: 1, ANSWER: 0, AUTHORITY: 0/);
    const whole = await digAt(longServer, '+noedns', LONG_NAME);
    assert.match(whole, /Truncated, retrying in TCP mode/);
    assert.match(whole, /\(TCP\)/);
    assert.match(whole, /AUTHORITY: 1/);
    assert.match(await digAt(longServer, '+bufsize=1232', '+ignore', LONG_NAME), /AUTHORITY: 1/);
  });

  it('asks several questions over one TCP connection', async () => {
    const output = await dig('+tcp', '+keepopen', '+short', 'web.vm', 'A', 'db.vm', 'A', 'six.vm', 'AAAA');
    assert.equal(output, '172.30.0.2\n172.30.1.3\nfd42::6\n');
  });

  it('is refused or not understood where it should be', async () => {
    assert.equal(parse(await dig('example.com')).status, 'REFUSED');
    assert.equal(parse(await dig('-c', 'CH', 'version.bind', 'TXT')).status, 'REFUSED');
    assert.equal(parse(await dig('+opcode=NOTIFY', 'vm', 'SOA')).status, 'NOTIMP');
    assert.match(await dig('vm', 'AXFR'), /Transfer failed/);
    assert.deepEqual(parse(await dig('web.vm', 'ANY')).answers, ['web.vm. 5 IN A 172.30.0.2']);
    assert.equal(parse(await dig('+header-only')).status, 'FORMERR');
  });
});

const python = await run('python3', ['--version']).then(
  () => undefined,
  () => 'python3 is not installed',
);
const noRawSocket = process.getuid?.() === 0 ? python : 'needs root for a raw socket';

/** A UDP packet from port 0, which no ordinary socket can send: PORT, and the query in hexadecimal. */
const FROM_PORT_ZERO = `
import socket, struct, sys
data = bytes.fromhex(sys.argv[2])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
raw.sendto(struct.pack("!HHHH", 0, int(sys.argv[1]), 8 + len(data), 0) + data, ("127.0.0.1", 0))
`;

describe('a packet from port 0', { skip: noRawSocket ?? false }, () => {
  it('is dropped, and others are answered', async () => {
    await using server = new DnsServer({ zone: exampleZone(), address: '127.0.0.1', port: 0 });
    await server.start();
    const bytes = query({ name: 'web.vm' });
    await run('python3', ['-c', FROM_PORT_ZERO, String(server.status.port), bytes.toString('hex')]);
    assert.equal((await askUdp(server.status, bytes))?.answers?.length, 1);
    assert.equal(server.status.queries.answer, 1);
  });
});
