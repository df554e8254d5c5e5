/** The HTTP server: the contract's routes with their handlers, validation and one error shape. */
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { z } from 'zod';
import { contract, type Route, type RouteName } from '../api/contract.ts';
import { toProblem } from '../api/problem.ts';
import { asBangerError, BangerError, messageOf } from '../errors.ts';
import { VERSION } from '../version.ts';
import { refusalOfBrowser } from './browsers.ts';
import { openApiDocument } from './openapi.ts';

type Parsed<T> = T extends z.ZodType ? z.output<T> : undefined;
type Answer<T> = T extends { response: infer R extends z.ZodType } ? z.input<R> : unknown;
type Contract = typeof contract;

export interface HandlerInput<N extends RouteName> {
  params: Contract[N] extends { params: infer P } ? Parsed<P> : undefined;
  query: Contract[N] extends { query: infer Q } ? Parsed<Q> : undefined;
  body: Contract[N] extends { body: infer B } ? Parsed<B> : undefined;
  /** aborted when the client goes away */
  signal: AbortSignal;
  request: FastifyRequest;
  reply: FastifyReply;
}

/** One handler per route; a handler of a streamed route answers through `reply` itself. */
export type Handlers = { [N in RouteName]: (input: HandlerInput<N>) => Promise<Answer<Contract[N]>> };

/** Requests are small; a VM is described in a few hundred bytes. */
const BODY_LIMIT_BYTES = 256 * 1024;

export function createServer(handlers: Handlers, logger: FastifyBaseLogger): FastifyInstance {
  const server = fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT_BYTES,
    // an address that cannot be decoded is refused before any handler sees it
    frameworkErrors: (error, _request, reply) => sendProblem(reply, fromFrameworkError(error) ?? asBangerError(error)),
  });
  acceptEmptyJson(server);
  // a connection that cannot be accepted, for want of descriptors for example, is no reason to end
  server.server.on('error', (error) => logger.error({ error: messageOf(error) }, 'the socket has an error'));
  server.addHook('onRequest', async (request) => {
    const refusal = refusalOfBrowser(request.headers);
    if (refusal) throw refusal;
  });
  server.addHook('onSend', async (_request, reply) => {
    reply.header('x-banger-version', VERSION);
  });
  server.setNotFoundHandler((request, reply) => {
    sendProblem(
      reply,
      new BangerError('not_found', `There is no ${request.method} ${request.url}.`, {
        hint: 'See what there is: GET /v1/openapi.json',
      }),
    );
  });
  server.setErrorHandler((error, request, reply) => {
    const failure = fromFrameworkError(error) ?? asBangerError(error);
    if (failure.code === 'internal') request.log.error({ err: error, url: request.url }, 'request failed');
    sendProblem(reply, failure);
  });
  server.get('/v1/openapi.json', async () => openApiDocument());
  for (const name of Object.keys(contract) as RouteName[]) addRoute(server, name, contract[name], handlers);
  return server;
}

function addRoute(server: FastifyInstance, name: RouteName, route: Route, handlers: Handlers): void {
  const handler = handlers[name] as (input: HandlerInput<RouteName>) => Promise<unknown>;
  server.route({
    method: route.method,
    url: route.url,
    handler: async (request, reply) => {
      const input = {
        params: parse(route.params, request.params, 'path'),
        query: parse(route.query, request.query, 'query'),
        body: parse(route.body, request.body ?? {}, 'body'),
        signal: whenClientLeaves(reply),
        request,
        reply,
      } as HandlerInput<RouteName>;
      const result = await handler(input);
      if (reply.sent || route.streams) return reply;
      reply.code(route.status ?? 200);
      // the schema drops what is not meant for clients and catches a handler that forgot a field
      return route.response ? route.response.parse(result) : null;
    },
  });
}

/** Aborted when the connection is done with; fastify's own signal is silent once a streamed answer was hijacked. */
function whenClientLeaves(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => gone.abort());
  return gone.signal;
}

/** @throws BangerError `invalid_input` naming every wrong field */
function parse(type: z.ZodType | undefined, value: unknown, place: string): unknown {
  if (!type) return undefined;
  const result = type.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const field = issue.path.length > 0 ? issue.path.join('.') : place;
    return `${field} ${inWords(issue)}`;
  });
  throw new BangerError('invalid_input', `${problems.join('; ')}.`, { details: { problems } });
}

/** zod's names of types, for people. */
const TYPES: Record<string, string> = {
  array: 'a list',
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a number',
  object: 'an object',
  string: 'text',
};

/** What is wrong with a value, as the rest of a sentence about its field. */
function inWords(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'too_small':
      return issue.origin === 'string' ? 'must not be empty' : `must be at least ${issue.minimum}`;
    case 'too_big':
      return `must ${issue.origin === 'string' ? 'have' : 'be'} at most ${issue.maximum}${issue.origin === 'string' ? ' characters' : ''}`;
    case 'invalid_type':
      return issue.message.endsWith('received undefined')
        ? 'is missing'
        : `must be ${TYPES[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return `must be one of ${issue.values.map(String).join(', ')}`;
    case 'unrecognized_keys':
      return `has unknown fields: ${issue.keys.join(', ')}`;
    default:
      return issue.message.charAt(0).toLowerCase() + issue.message.slice(1);
  }
}

function sendProblem(reply: FastifyReply, error: BangerError): void {
  const problem = toProblem(error);
  reply.code(problem.status).type('application/problem+json').send(problem);
}

/** Fastify's own refusals (bad JSON, body too large) are the client's mistake, not ours. */
function fromFrameworkError(error: unknown): BangerError | undefined {
  if (error instanceof BangerError || !(error instanceof Error) || !('statusCode' in error)) return undefined;
  const status = Number(error.statusCode);
  return status >= 400 && status < 500 ? new BangerError('invalid_input', error.message, { cause: error }) : undefined;
}

/** Fastify answers 400 to a JSON content type without a body; an empty body is an empty object here. */
function acceptEmptyJson(server: FastifyInstance): void {
  server.removeContentTypeParser('application/json');
  server.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, text, done) => {
    try {
      done(null, text === '' ? undefined : JSON.parse(String(text)));
    } catch (error) {
      done(new BangerError('invalid_input', 'The request body is not JSON.', { cause: error }));
    }
  });
}
