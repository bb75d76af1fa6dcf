// A Node.js handler as AWS Lambda runs it.
//
//   weir function deploy greet --runtime nodejs20.x --handler index.handler --code examples/functions/node
exports.handler = async (event, context) => {
  console.log("greeting", event.name);
  if (!event.name) throw new Error("name is missing");
  return { hello: event.name, request: context.awsRequestId };
};
