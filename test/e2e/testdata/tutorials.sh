# The commands of the tutorials of the AWS IoT Core developer guide, as they are
# typed there, in an order in which they can follow one another. Lines that begin
# with "# " say where they come from, "#! code" that the next one fails so,
# "#= text" what the next one's answer has. certificateArn and the like stand for
# what an earlier answer said, as in the guide.

# Set up your AWS account: configure a virtual device
#= localhost
aws iot describe-endpoint --endpoint-type iot:Data-ATS
#= localhost
aws iot describe-endpoint --endpoint-type IoT:Data-ATS
#= localhost
aws iot describe-endpoint --endpoint-type IOT:Data-ATS
#= "thingName": "MyIotThing"
aws iot create-thing --thing-name "MyIotThing"
#= "certificatePem": "-----BEGIN CERTIFICATE-----
aws iot create-keys-and-certificate \
    --set-as-active \
    --certificate-pem-outfile "device.pem.crt" \
    --public-key-outfile "public.pem.key" \
    --private-key-outfile "private.pem.key"
aws iot attach-thing-principal \
    --thing-name "MyIotThing" \
    --principal "certificateArn"
#= "policyVersionId": "1"
aws iot create-policy \
    --policy-name "MyIotThingPolicy" \
    --policy-document "file://policy.json"
aws iot attach-policy \
    --policy-name "MyIotThingPolicy" \
    --target "certificateArn"

# Republishing an MQTT message
aws iot create-topic-rule --rule-name wx_data --topic-rule-payload file://republish.json
#= "ruleName": "wx_data"
aws iot list-topic-rules
#= "sql": "SELECT topic(2) as device_id, temperature FROM 'device/+/data'"
aws iot get-topic-rule --rule-name wx_data
aws iot-data publish --topic device/22/data --payload fileb://message.json

# Creating an AWS IoT rule
aws iot create-topic-rule --rule-name myrule --topic-rule-payload file://myrule.json

# Thing types
#= "thingTypeName": "LightBulb"
aws iot create-thing-type --thing-type-name "LightBulb" --thing-type-properties "thingTypeDescription=light bulb type, searchableAttributes=wattage,model"
#= "thingTypeDescription": "light bulb type"
aws iot list-thing-types
#= "deprecated": false
aws iot describe-thing-type --thing-type-name "LightBulb"
#= "thingName": "MyLightBulb"
aws iot create-thing --thing-name "MyLightBulb" --thing-type-name "LightBulb" --attribute-payload "{\"attributes\": {\"wattage\":\"75\", \"model\":\"123\"}}"

# How to manage things with the registry
#= "thingName": "MyLightBulb"
aws iot list-things
#= "thingName": "MyLightBulb"
aws iot list-things --thing-type-name "LightBulb"
#= "thingName": "MyLightBulb"
aws iot list-things --attribute-name "wattage" --attribute-value "75"
#= "defaultClientId": "MyLightBulb"
aws iot describe-thing --thing-name "MyLightBulb"
aws iot update-thing --thing-name "MyLightBulb" --attribute-payload "{\"attributes\": {\"wattage\":\"150\", \"model\":\"456\"}}"
#= "wattage": "150"
aws iot describe-thing --thing-name "MyLightBulb"
aws iot attach-thing-principal --thing-name "MyLightBulb" --principal "certificateArn"
#= certificateArn
aws iot list-thing-principals --thing-name "MyLightBulb"
aws iot delete-thing --thing-name "MyThing"

# Static thing groups
#= "thingGroupName": "LightBulbs"
aws iot create-thing-group --thing-group-name LightBulbs
#= "thingGroupName": "RedLights"
aws iot create-thing-group --thing-group-name RedLights --parent-group-name LightBulbs
#= "groupName": "LightBulbs"
aws iot describe-thing-group --thing-group-name RedLights
aws iot add-thing-to-thing-group --thing-name MyLightBulb --thing-group-name RedLights
#= "things": []
aws iot list-things-in-thing-group --thing-group-name LightBulbs
#= "MyLightBulb"
aws iot list-things-in-thing-group --thing-group-name LightBulbs --recursive
#= "groupName": "RedLights"
aws iot list-thing-groups
#= "groupName": "RedLights"
aws iot list-thing-groups --parent-group LightBulbs
#= "groupName": "RedLights"
aws iot list-thing-groups --parent-group LightBulbs --recursive
#= "groupName": "RedLights"
aws iot list-thing-groups-for-thing --thing-name MyLightBulb
#! InvalidRequestException
aws iot delete-thing-group --thing-group-name "LightBulbs"
aws iot attach-policy \
  --target "arn:aws:iot:us-east-1:123456789012:thinggroup/LightBulbs" \
  --policy-name "MyIotThingPolicy"
#= "policies": []
aws iot list-attached-policies --target "arn:aws:iot:us-east-1:123456789012:thinggroup/RedLights"
#= "policyName": "MyIotThingPolicy"
aws iot list-attached-policies --recursive --target "arn:aws:iot:us-east-1:123456789012:thinggroup/RedLights"
#= "arn:aws:iot:us-east-1:123456789012:thinggroup/LightBulbs"
aws iot list-targets-for-policy --policy-name "MyIotThingPolicy"
#= "policyName": "MyIotThingPolicy"
aws iot get-effective-policies \
  --thing-name "MyLightBulb" \
  --principal "certificateArn"
#= "authDecision": "ALLOWED"
aws iot test-authorization \
    --principal "certificateArn" \
    --auth-infos "{\"actionType\": \"PUBLISH\", \"resources\": [ \"arn:aws:iot:us-east-1:123456789012:topic/my/topic\"]}"
aws iot detach-policy --target "arn:aws:iot:us-east-1:123456789012:thinggroup/LightBulbs" --policy-name "MyIotThingPolicy"
aws iot remove-thing-from-thing-group --thing-name MyLightBulb --thing-group-name RedLights
aws iot delete-thing-group --thing-group-name "RedLights"

# Enable events for AWS IoT
aws iot update-event-configurations --event-configurations "{\"THING\":{\"Enabled\": true}}"
#= "creationDate"
aws iot describe-event-configurations

# Configure AWS IoT logging
aws iot set-v2-logging-options \
    --role-arn arn:aws:iam::123456789012:role/logging-role \
    --default-log-level WARN
#= "defaultLogLevel": "WARN"
aws iot get-v2-logging-options
aws iot set-v2-logging-level \
              --log-target targetType=CLIENT_ID,targetName=ClientId1 \
              --log-level DEBUG
#= "targetName": "ClientId1"
aws iot list-v2-logging-levels
aws iot delete-v2-logging-level \
              --target-type=CLIENT_ID \
              --target-name=ClientId1

# Device shadows
aws iot-data update-thing-shadow --thing-name MyLightBulb --payload fileb://shadow.json /dev/stdout
aws iot-data get-thing-shadow --thing-name MyLightBulb /dev/stdout
aws iot-data delete-thing-shadow --thing-name MyLightBulb /dev/stdout
#! ResourceNotFoundException
aws iot-data get-thing-shadow --thing-name MyLightBulb /dev/stdout

# And away with it
#! DeleteConflictException
aws iot delete-policy --policy-name MyIotThingPolicy
#! InvalidRequestException
aws iot delete-thing --thing-name "MyLightBulb"
aws iot detach-thing-principal --thing-name "MyLightBulb" --principal "certificateArn"
aws iot detach-thing-principal --thing-name "MyIotThing" --principal "certificateArn"
aws iot detach-policy --target "certificateArn" --policy-name "MyIotThingPolicy"
aws iot delete-policy --policy-name MyIotThingPolicy
#! CertificateStateException
aws iot delete-certificate --certificate-id "certificateId"
aws iot update-certificate --certificate-id "certificateId" --new-status INACTIVE
aws iot delete-certificate --certificate-id "certificateId"
aws iot delete-topic-rule --rule-name wx_data
aws iot delete-topic-rule --rule-name myrule
aws iot delete-thing --thing-name "MyLightBulb"
aws iot deprecate-thing-type --thing-type-name "LightBulb"
aws iot deprecate-thing-type --thing-type-name "LightBulb" --undo-deprecate
#! InvalidRequestException
aws iot delete-thing-type --thing-type-name "LightBulb"
