import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

const WITHOUT_NETWORK = `
import { exchange } from ${source('dns/exchange.ts')};
const query = Buffer.from('123401000001000000000000076578616d706c6503636f6d0000010001', 'hex');
for (const transport of ['udp', 'tcp']) {
  const signal = AbortSignal.timeout(10_000);
  const failure = await exchange(query, { address: '192.0.2.1', port: 53 }, { transport, signal }).catch((error) => error);
  console.log(transport, failure.code);
}
`;

describe('a query of a host without a network', () => {
  it('fails at once, and the process goes on', async (t) => {
    const argv = ['-n', process.execPath, '--input-type=module', '--eval', WITHOUT_NETWORK];
    const child = spawn('unshare', argv);
    const [said, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
    if (/unshare failed/.test(errors)) return t.skip(`no network namespace can be made here: ${errors.trim()}`);
    assert.equal(child.exitCode, 0, errors);
    assert.equal(said, 'udp ENETUNREACH\ntcp ENETUNREACH\n');
  });
});
