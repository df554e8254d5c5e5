import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { pino } from 'pino';
import { contract, type RouteName } from '../../src/api/contract.ts';
import type { Vm } from '../../src/api/vm.ts';
import { createServer, type HandlerInput, type Handlers } from '../../src/daemon/server.ts';
import { BangerError } from '../../src/errors.ts';
import { VERSION } from '../../src/version.ts';

const web: Vm = {
  id: '5f3a9c01',
  name: 'web',
  state: 'stopped',
  failure: null,
  problem: null,
  image: 'debian-bookworm',
  vcpus: 1,
  memoryMib: 512,
  rootDiskBytes: 2 ** 31,
  workDiskBytes: 0,
  workDiskMount: '/root',
  address: '172.30.0.2',
  mac: '06:00:ac:1e:00:02',
  nat: true,
  autostart: false,
  restartPolicy: 'never',
  idleSuspendMs: 0,
  awakeUntil: null,
  createdAt: '2026-11-23T00:00:00.000Z',
  startedAt: null,
  vmm: null,
  pid: null,
  ready: false,
  bootMs: null,
  readyMs: null,
  failedUnits: [],
  temporary: null,
  forkedFrom: null,
  suspended: null,
  snapshots: 0,
  health: null,
};

const begun = {
  id: 'a1b2c3d4',
  kind: 'vm.start',
  target: 'web',
  state: 'running' as const,
  step: null,
  createdAt: web.createdAt,
  finishedAt: null,
  error: null,
};

/** A server whose other routes must not be reached. */
function serve(t: TestContext, handlers: Partial<Handlers>): FastifyInstance {
  const rest = Object.keys(contract).map((name) => [name, async () => assert.fail(`${name} was called`)]);
  const server = createServer({ ...Object.fromEntries(rest), ...handlers } as Handlers, pino({ level: 'silent' }));
  t.after(() => server.close());
  return server;
}

describe('the HTTP server', () => {
  it('hands a route what its contract names, and answers in its form with the version', async (t) => {
    const seen: unknown[] = [];
    const server = serve(t, {
      startVm: async ({ params, body }) => {
        seen.push(params, body);
        return begun;
      },
      deleteVm: async ({ query }) => {
        seen.push(query);
        return begun;
      },
    });
    const started = await server.inject({ method: 'POST', url: '/v1/vms/web/start', payload: { timeoutMs: 5 } });
    assert.deepEqual([started.statusCode, started.json()], [202, begun]);
    assert.equal(started.headers['x-banger-version'], VERSION);
    await server.inject({ method: 'DELETE', url: '/v1/vms/web?force=true' });
    await server.inject({ method: 'POST', url: '/v1/vms/web/start' });
    assert.deepEqual(seen, [{ name: 'web' }, { timeoutMs: 5 }, { force: true }, { name: 'web' }, {}]);
  });

  it('takes an empty body for an empty object, also when it claims to be JSON', async (t) => {
    const server = serve(t, { startVm: async () => begun });
    const headers = { 'content-type': 'application/json' };
    const answer = await server.inject({ method: 'POST', url: '/v1/vms/web/start', headers });
    assert.equal(answer.statusCode, 202, answer.body);
  });

  it('keeps to itself what the contract does not name', async (t) => {
    const secret = { ...web, hostKeyPrivate: 'secret' };
    const server = serve(t, { listVms: async () => [secret] });
    const answer = await server.inject('/v1/vms');
    assert.deepEqual(answer.json(), [web]);
  });

  it('tells failures as problem documents with the status of their code', async (t) => {
    const failure = new BangerError('conflict', 'web is running.', { hint: 'banger stop web', details: { pid: 7 } });
    const server = serve(t, { showVm: () => Promise.reject(failure) });
    const answer = await server.inject('/v1/vms/web');
    assert.equal(answer.statusCode, 409);
    assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
    assert.deepEqual(answer.json(), {
      code: 'conflict',
      message: 'web is running.',
      hint: 'banger stop web',
      details: { pid: 7 },
      type: 'urn:banger:error:conflict',
      title: 'conflict',
      status: 409,
    });
  });

  it('calls what was never foreseen a bug, and a handler that forgot a field too', async (t) => {
    const server = serve(t, {
      listVms: () => Promise.reject(new TypeError('x is not a function')),
      showVm: (async () => ({ name: 'web' })) as unknown as Handlers['showVm'],
    });
    for (const url of ['/v1/vms', '/v1/vms/web']) {
      const answer = await server.inject(url);
      assert.deepEqual([answer.statusCode, answer.json().code], [500, 'internal']);
    }
  });

  const nonsense: [what: string, request: InjectOptions, status: number, says: RegExp][] = [
    ['an unknown field', create({ name: 'web', colour: 'red' }), 400, /body has unknown fields: colour/],
    [
      'several wrong fields',
      create({ name: 'Web', vcpus: 33, memoryMib: 1.5 }),
      400,
      /name must be .*vcpus must be at most 32; memoryMib must be a whole number\.$/,
    ],
    ['a body without what is needed', create({}), 400, /name is missing/],
    ['a body that is a list', create([]), 400, /body must be an object/],
    ['a body that is no JSON', create('{"name":'), 400, /JSON/],
    [
      'a body of another kind',
      { ...create('name=web'), headers: { 'content-type': 'text/plain' } },
      400,
      /body must be an object/,
    ],
    ['a huge body', create({ name: 'x'.repeat(300_000) }), 400, /too large/],
    ['a name that is no label', { method: 'GET', url: '/v1/vms/..%2f..' }, 400, /DNS label/],
    ['a name that cannot be decoded', { method: 'GET', url: '/v1/vms/%zz' }, 400, /%zz/],
    ['a number that is none', { method: 'GET', url: '/v1/vms/web/logs?lines=many' }, 400, /lines/],
    ['a flag that is none', { method: 'DELETE', url: '/v1/vms/web?force=perhaps' }, 400, /force/],
    ['a method it has not', { method: 'PUT', url: '/v1/vms' }, 404, /There is no PUT \/v1\/vms/],
    ['an address it has not', { method: 'GET', url: '/v1/nosuch' }, 404, /There is no GET \/v1\/nosuch/],
  ];

  for (const [what, request, status, says] of nonsense) {
    it(`refuses ${what}, and says so`, async (t) => {
      const answer = await serve(t, {}).inject(request);
      const { code, message } = answer.json();
      assert.match(message, says);
      assert.deepEqual([answer.statusCode, code], [status, status === 404 ? 'not_found' : 'invalid_input']);
      assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
    });
  }
});

function create(payload: object | string) {
  return { method: 'POST' as const, url: '/v1/vms', payload, headers: { 'content-type': 'application/json' } };
}

interface OpenApi {
  openapi: string;
  paths: Record<string, Record<string, OpenApiOperation>>;
  components: { schemas: Record<string, object> };
}

interface OpenApiOperation {
  operationId: string;
  summary: string;
  parameters: { name: string; in: string; required: boolean; schema: object }[];
  requestBody?: { content: Record<string, { schema: { type: string } }> };
  responses: Record<string, { description: string; content?: Record<string, object> }>;
}

describe('the OpenAPI document', () => {
  it('describes every route of the contract once, in its place', async (t) => {
    const document = (await serve(t, {}).inject('/v1/openapi.json')).json<OpenApi>();
    assert.match(document.openapi, /^3\.1\./);
    const described = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { operationId }]) => `${operationId}: ${method.toUpperCase()} ${path}`),
    );
    const wanted = Object.entries(contract).map(
      ([name, { method, url }]) => `${name}: ${method} ${url.replace(/:(\w+)/g, '{$1}')}`,
    );
    assert.deepEqual(described.toSorted(), wanted.toSorted());
  });

  it('is sound: parameters stand in their paths, answers have bodies, references lead somewhere', async (t) => {
    const document = (await serve(t, {}).inject('/v1/openapi.json')).json<OpenApi>();
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const operation of Object.values(methods)) {
        const inPath = operation.parameters
          .filter((parameter) => parameter.in === 'path')
          .map(({ name }) => `{${name}}`);
        assert.deepEqual(inPath, path.match(/\{\w+\}/g) ?? [], path);
        assert.ok(operation.summary.length > 0 && !operation.summary.endsWith('.'), path);
        for (const { schema } of operation.parameters) assert.ok(Object.keys(schema).length > 0, path);
        const [status = '', second] = Object.keys(operation.responses);
        assert.match(status, /^20\d$/);
        assert.equal(second, 'default');
        const route = contract[operation.operationId as RouteName];
        assert.equal(Object.hasOwn(route, 'body'), operation.requestBody !== undefined, path);
        const answers = Object.hasOwn(route, 'response') || Object.hasOwn(route, 'streams');
        assert.equal(operation.responses[status]?.content !== undefined, answers, path);
      }
    }
    const text = JSON.stringify(document);
    for (const [, name = ''] of text.matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)) {
      assert.ok(document.components.schemas[name], name);
    }
    assert.doesNotMatch(text, /\$schema|\$defs/);
  });

  it('says what the server does: it takes the example of its own schema', async (t) => {
    const seen: HandlerInput<'createVm'>['body'][] = [];
    const server = serve(t, {
      createVm: async ({ body }) => {
        seen.push(body);
        return begun;
      },
    });
    const document = (await server.inject('/v1/openapi.json')).json<OpenApi>();
    const schema: unknown = document.paths['/v1/vms']?.post?.requestBody?.content['application/json']?.schema;
    const { required, additionalProperties, properties } = schema as {
      required: string[];
      additionalProperties: boolean;
      properties: Record<string, { maximum?: number }>;
    };
    assert.deepEqual([required, additionalProperties, properties.vcpus?.maximum], [['name'], false, 32]);
    await server.inject(create({ name: 'web', vcpus: 32 }));
    assert.deepEqual(seen, [{ name: 'web', vcpus: 32 }]);
  });
});
